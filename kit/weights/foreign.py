"""What a file without weights is, judged by its first bytes."""

import re
from pathlib import Path

AGAIN = "Download or copy the file again"

_MAGIC = (
    (b"GGUF", "a GGUF file, whose quantised weights are not read here. Use the original weights"),
    (b"\x1f\x8b", "a gzip archive. Unpack it and give the weight file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive. Unpack it and give the weight file inside"),
    (b"Rar!", "a RAR archive. Unpack it and give the weight file inside"),
    (b"\x93NUMPY", "a single NumPy array. Give the weight file of the model"),
    (b"\x89HDF", "an HDF5 file. Give the model's safetensors or torch file"),
    (b"\x89PNG", "a PNG picture. Give the weight file of the model"),
    (b"\xff\xd8\xff", "a JPEG picture. Give the weight file of the model"),
)


def describe_foreign(path: Path, head: bytes, size: int) -> str:
    """What the file is, and what to do.

    head: its first bytes, about a thousand of them. size: of the whole file, in bytes.
    """
    if head.startswith(b"version https://git-lfs"):
        real = re.search(rb"size (\d+)", head)
        stands_for = f" that stands for {int(real.group(1)):,} bytes" if real else ""
        return (
            f"{path} is a git-LFS pointer{stands_for}, a note of {size} bytes in place of the "
            "weights. Run `git lfs pull` in its folder, or download the file itself."
        )
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"{path} is {what}."
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            f"{path} is a web page ({size:,} bytes), not weights: the download was answered with "
            "an error or a login page. Download it again from the file's own link, logged in if "
            "the model asks for it."
        )
    if b'"weight_map"' in head or b'"total_size"' in head:
        return (
            f"{path} is the index of a model split into several files. Expected one file; join "
            "its parts into one safetensors file, or use the release in one file."
        )
    if not head.strip(b"\0"):
        return (
            f"{path} begins with zeros only: a download that reserved {size:,} bytes and stopped. "
            f"{AGAIN}."
        )
    if _is_text(head):
        line = head.decode("utf-8", "replace").strip().splitlines()[0][:60] if start else ""
        return f"{path} is a text file (it begins {line!r}), not weights. {AGAIN}."
    if size < 16:
        return f"{path} is truncated: only {size} bytes of it are there. {AGAIN}."
    return (
        f"{path} is no weight file: it begins with the bytes {head[:8].hex(' ')}. Expected "
        "safetensors, or a pickle written by torch.save."
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head[:256].decode("ascii")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\r\n\t" for c in text)
