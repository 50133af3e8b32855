"""Who may use the demo: names and passwords, from a file rather than a command line that others can see."""

import ipaddress

from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import read_bytes


def read_users(path: str) -> list[tuple[str, str]]:
  """Read a file of NAME:PASSWORD, one a line; empty lines and lines that start with # are left out.

  Raises:
    UserError: the file can't be read, has no user, or a line is none; passwords are not repeated in the text.
  """
  try:
    text = read_bytes(path, limits.CELL_BYTES).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise UserError(f"--password_file: {path} is not UTF-8 text") from None
  users: dict[str, str] = {}
  for number, line in enumerate(text.splitlines(), 1):
    name, colon, password = line.strip().partition(":")
    if not name and not colon or line.startswith("#"):
      continue
    if not name or not password:
      raise UserError(f"--password_file: {path}:{number}: expected NAME:PASSWORD")
    if name in users:
      raise UserError(f"--password_file: {path}:{number}: {name} has a password already")
    users[name] = password
  if not users:
    raise UserError(f"--password_file: {path} has no NAME:PASSWORD")
  return list(users.items())


def is_loopback(host: str) -> bool:
  """Return whether only this machine can reach an address."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"
