"""Recognises media files by their first bytes, in order to count the files of a folder.

Only opening a file decides which format it has and whether it can be used.
"""

import re

HEAD = 1024  # Number of bytes to look at.
_SIGNATURES = re.compile("|".join((
    # Videos: the MP4 family, Matroska, AVI, MPEG streams with and without a container, Flash, ASF, Ogg and others.
    r".{4}(ftyp|moov|mdat|wide|free|skip|pnot)", r"\x1a\x45\xdf\xa3", r"RIFF.{4}AVI ", r"\0\0\x01[\xb0\xb3\xba]",
    r"(?:.{4})?\x47.{187}(?:.{4})?\x47.{187}(?:.{4})?\x47", r"\0?\0\0\x01[\x09\x27\x67]", r"\0?\0\0\x01[\x40\x46]\x01",
    r"FLV\x01", r"[FC]WS[\x03-\x20]", r"\x30\x26\xb2\x75\x8e\x66\xcf\x11", r"OggS\0", r"DKIF", r"YUV4MPEG2 ",
    r"\x06\x0e\x2b\x34\x02\x05\x01\x01", r"nut/multimedia", r"\.RMF", r"\xb7\xd8\x00\x20\x37\x49\xda\x11",
    r"\x1f\x07\0[\x3f\xbf]", r"BBCD\0",
    # Pictures.
    r"\xff\xd8\xff", r"\x89PNG\r\n", r"GIF8[79]a", r"BM.{4}\0\0\0\0", r"II\*\0", r"MM\0\*", r"RIFF.{4}WEBP",
    r"\0\0\0\x0cjP  ", r"\xff\x4f\xff\x51", r"qoif", r"P[1-6]\s+[0-9#]", r"\0\0\0\x0cJXL ", r"8BPS\0\x01",
    # Sound, which is reported as such.
    r"ID3[\x02-\x04]", r"fLaC", r"RIFF.{4}WAVE", r"FORM.{4}AIF", r"\xff[\xf1\xf9][\x40-\x6c]")).encode("latin-1"),
    re.DOTALL)


def looks_like_media(head: bytes) -> bool:
  """Return whether a file that begins with these bytes looks like a video, a picture or sound."""
  return _SIGNATURES.match(head) is not None
