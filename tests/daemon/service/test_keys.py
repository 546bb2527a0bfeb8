"""Key files: nobody else can read them, none is replaced by accident, damage is said."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from parfocal.daemon.service.errors import KeyFileError
from parfocal.daemon.service.keys import FORMAT, daemon_key, new_key, public_path, read_key

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX")


def test_a_new_key_has_a_secret_half_to_carry_and_a_public_one_that_stays(tmp_path: Path) -> None:
    path, key = new_key(tmp_path / "keys", "ann", "operate")
    assert read_key(path, secret=True) == key
    public = read_key(public_path(tmp_path / "keys", "ann"), secret=False)
    assert (public.public, public.secret, public.role) == (key.public, "", "operate")
    assert key.server == daemon_key(tmp_path / "keys").public
    _, other = new_key(tmp_path / "keys", "bob", "observe")
    assert other.server == key.server
    assert other.public != key.public


@posix
def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    new_key(tmp_path / "keys", "ann", "observe")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert set(modes) == {"ann.secret.json", "ann.public.json", "daemon.secret.json"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


@posix
def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path, _ = new_key(tmp_path, "ann", "observe")
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others can read this secret; `chmod 600"):
        read_key(path, secret=True)


def test_no_key_is_replaced(tmp_path: Path) -> None:
    _, key = new_key(tmp_path, "ann", "operate")
    with pytest.raises(KeyFileError, match="has a key already"):
        new_key(tmp_path, "ann", "operate")
    assert read_key(tmp_path / "ann.secret.json", secret=True) == key
    public_path(tmp_path, "ann").unlink()
    with pytest.raises(KeyFileError, match="is there already"):
        new_key(tmp_path, "ann", "operate")
    assert not public_path(tmp_path, "ann").exists()  # no half of a pair is left behind


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("daemon", "operate", "is not 'daemon'"),
        ("../ann", "operate", "a name has letters"),
        ("", "operate", "a name has letters"),
        ("ann", "opperate", "did you mean 'operate'"),
        ("ann", "root", "observe or operate"),
    ],
)
def test_names_and_roles_are_checked_before_anything_is_written(
    tmp_path: Path, name: str, role: str, says: str
) -> None:
    with pytest.raises(KeyFileError, match=says):
        new_key(tmp_path / "keys", name, role)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "not json", '{"format": "parfocal.key/1"}', '{"format": "parfocal.key/9", "name": "a"}',
        json.dumps({"format": FORMAT, "name": "ann", "role": "operate", "public": "short"}),
        json.dumps({"format": FORMAT, "name": "ann", "role": "king", "public": "a" * 40}),
        json.dumps({"format": FORMAT, "name": 3, "role": "operate", "public": "a" * 40}),
        "x" * 20_000,
    ],
)  # fmt: skip
def test_damage_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=r"k\.json"):
        read_key(path, secret=False)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="parfocal keys new"):
        read_key(tmp_path / "none.json", secret=True)
    new_key(tmp_path, "ann", "observe")
    with pytest.raises(KeyFileError, match=r"ends in \.secret\.json"):
        read_key(public_path(tmp_path, "ann"), secret=True)


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(KeyFileError, match="keys cannot be written here"):
            new_key(tmp_path / "keys", "ann", "observe")
    finally:
        tmp_path.chmod(0o700)
