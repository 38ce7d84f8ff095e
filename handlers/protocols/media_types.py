"""Media types of bodies: other names that clients give them, and what the bytes of a body without one show."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.contract import ANY_MEDIA_TYPE, BINARY, JPEG, JSON, PNG

#: Names that clients give to media types, besides their own.
_ALIASES = {
    **dict.fromkeys(("image/jpg", "image/jfif", "image/pjpeg", "image/x-jpg", "image/x-jpeg"), JPEG),
    "image/x-citrix-jpeg": JPEG,
    **dict.fromkeys(("image/x-png", "image/x-citrix-png", "image/apng", "image/vnd.mozilla.apng"), PNG),
    **dict.fromkeys(("text/json", "text/x-json", "application/x-json"), JSON),
    **dict.fromkeys(("audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/x-pn-wav"), "audio/wav"),
    "audio/x-flac": "audio/flac",
    "application/csv": "text/csv",
    **dict.fromkeys(("application/protobuf", "application/vnd.google.protobuf"), "application/x-protobuf"),
}


#: Offset and bytes by which files of a media type begin.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"\xff\xd8\xff", JPEG),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"\x93NUMPY", "application/x-npy"),
    (0, b"PK\x03\x04", "application/zip"),
)


#: A zip file is most often the container of something else; it is called by that name only where it is read as such.
_CONTAINED = frozenset({"application/zip"})


#: What a client or TorchServe says of bytes whose media type it does not know, such as a form's file without a type.
_UNKNOWN = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-binary"})


def media_type_of(sent_as: str, body: bytes, read: Sequence[str] = (JSON,)) -> str:
    """The media type of a body: as it was sent, another name of it that is read, or, of bytes without a type, what they
    show.

    Args:
        read: the media types that the handler reads.
    """
    if sent_as in read:
        return sent_as
    if sent_as in _UNKNOWN:
        return sniff(body, read)
    usual = _ALIASES.get(sent_as, sent_as)
    return next((name for name in read if _ALIASES.get(name) == usual), usual) if usual not in read else usual


def sniff(body: bytes, read: Sequence[str] = (JSON,)) -> str:
    """The media type that the first bytes show; else JSON where it is read, or the only type that is."""
    is_any = ANY_MEDIA_TYPE in read
    for offset, magic, media_type in _MAGIC:
        is_told = media_type in read or media_type in (PNG, JPEG) or (is_any and media_type not in _CONTAINED)
        if is_told and body.startswith(magic, offset):
            return media_type
    if is_any:
        return JSON if body.lstrip()[:1] in (b"{", b"[") else BINARY
    return read[0] if len(read) == 1 else JSON


def is_read(media_type: str, read: Sequence[str]) -> bool:
    """Whether a handler with these `media_types` reads it."""
    return media_type in read or ANY_MEDIA_TYPE in read
