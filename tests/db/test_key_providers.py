"""Keys from the environment, from a file, and unwrapped by a key service that runs here over real HTTP."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response

from enable_with_segment.db.encryption import (
    EncryptionKeysInvalid,
    Place,
    format_key_entries,
    generate_encryption_key,
    new_key,
)
from enable_with_segment.db.key_providers import (
    EnvelopeKeys,
    EnvironmentKeys,
    KeyFile,
    KeysUnavailable,
    WrappingService,
)
from enable_with_segment.db.key_providers.file import file_problem, join_lines
from tests.key_service import TOKEN, KeyService
from tests.listening import listening

PLACE = Place("t", "c", "r")


@pytest.fixture
async def key_service() -> AsyncIterator[tuple[KeyService, WrappingService]]:
    """A running key service, and a client of it that does not wait between attempts."""
    service = KeyService()
    async with listening(service.app) as port:
        yield service, WrappingService(address(port), TOKEN, sleep=_at_once)


async def _at_once(_seconds: float) -> None:
    return


async def test_keys_from_the_environment() -> None:
    text = f"{generate_encryption_key()},{generate_encryption_key()}"
    provider = EnvironmentKeys(text)
    keys = await provider.load()
    assert (keys.setting, format_key_entries(await provider.configured())) == ("ENCRYPTION_KEYS", text)
    assert keys.decrypt(keys.encrypt("secret", PLACE), PLACE) == "secret"


async def test_keys_from_a_file(tmp_path: Path) -> None:
    first, second = generate_encryption_key(), generate_encryption_key()
    file = key_file(tmp_path, f"# the newest first\n{first}\n\n  {second}  # since the summer\n")
    keys = await KeyFile(file).load()
    assert keys.setting == "ENCRYPTION_KEYS_FILE"
    assert keys.key_ids == (first.partition(":")[0], second.partition(":")[0])


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666, 0o777])
async def test_tk_04_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, generate_encryption_key(), mode)
    with pytest.raises(EncryptionKeysInvalid, match=f"ENCRYPTION_KEYS_FILE.*{mode:04o}.*chmod 600"):
        await KeyFile(file).load()


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
async def test_a_key_file_may_be_read_by_its_group(tmp_path: Path, mode: int) -> None:
    assert len((await KeyFile(key_file(tmp_path, generate_encryption_key(), mode)).load()).key_ids) == 1


async def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    found = key_file(tmp_path, generate_encryption_key()).stat()
    stranger = os.stat_result((*found[:4], 12_345, *found[5:]))
    assert "another user" in (file_problem(stranger, our_user=10_001) or "")
    assert file_problem(stranger, our_user=12_345) is None


@pytest.mark.parametrize("content", ["", "# nothing\n", "k1:short", "k1", "\n".join(["k1:" + "A" * 43 + "="] * 2)])
async def test_tk_04_an_unusable_key_file_is_refused_by_name_without_its_content(tmp_path: Path, content: str) -> None:
    with pytest.raises(EncryptionKeysInvalid, match="ENCRYPTION_KEYS_FILE") as refused:
        await KeyFile(key_file(tmp_path, content)).load()
    assert "AAAA" not in str(refused.value)
    assert "short" not in str(refused.value)


async def test_a_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for path, word in ((tmp_path / "missing", "FileNotFoundError"), (tmp_path, "IsADirectoryError")):
        with pytest.raises(EncryptionKeysInvalid, match=word):
            await KeyFile(path).load()
    with pytest.raises(EncryptionKeysInvalid, match="UnicodeDecodeError"):
        await KeyFile(key_file(tmp_path, b"\xff\xfe")).load()
    with pytest.raises(EncryptionKeysInvalid, match="larger than"):
        await KeyFile(key_file(tmp_path, b"#" * 70_000)).load()


def test_lines_and_commas_mean_the_same() -> None:
    assert join_lines("a:1,\nb:2\r\n# c:3\n") == "a:1,b:2"


async def test_wrapped_keys_are_opened_by_the_key_service(key_service: tuple[KeyService, WrappingService]) -> None:
    service, client = key_service
    entries = {}
    clear = dict(new_key() for _ in range(2))
    for key_id, key in clear.items():
        entries[key_id] = await client.wrap(key_id, key)
        assert key not in entries[key_id]
    provider = EnvelopeKeys(EnvironmentKeys(format_key_entries(entries)), client)
    keys = await provider.load()
    assert keys.key_ids == tuple(clear)
    plain = await EnvironmentKeys(format_key_entries(clear)).load()
    assert plain.decrypt(keys.encrypt("secret", PLACE), PLACE) == "secret"
    assert await provider.configured() == entries
    assert service.asked.count("/v1/unwrap") == 2


async def test_opened_keys_outlive_the_key_service(key_service: tuple[KeyService, WrappingService]) -> None:
    service, client = key_service
    key_id, key = new_key()
    provider = EnvelopeKeys(EnvironmentKeys(format_key_entries({key_id: await client.wrap(key_id, key)})), client)
    ciphertext = (await provider.load()).encrypt("secret", PLACE)
    service.troubles = [failing(503)] * 10
    assert (await provider.load()).decrypt(ciphertext, PLACE) == "secret"
    assert len(service.troubles) == 10


async def test_a_wrapped_key_under_another_id_is_refused(key_service: tuple[KeyService, WrappingService]) -> None:
    _, client = key_service
    wrapped = await client.wrap("k1", b"1" * 32)
    with pytest.raises(EncryptionKeysInvalid, match=r"ENCRYPTION_KMS_URL.*refuses to unwrap key 'k2'") as refused:
        await EnvelopeKeys(EnvironmentKeys(format_key_entries({"k2": wrapped})), client).load()
    assert base64.b64encode(wrapped).decode() not in str(refused.value)


async def test_a_key_service_with_a_short_trouble_is_asked_again(
    key_service: tuple[KeyService, WrappingService],
) -> None:
    service, client = key_service
    service.troubles = [failing(503), failing(429)]
    wrapped = await client.wrap("k1", b"1" * 32)
    assert service.asked == ["/v1/wrap"] * 3
    assert await client.unwrap("k1", wrapped) == b"1" * 32


async def test_a_key_service_in_trouble_is_not_asked_for_ever(
    key_service: tuple[KeyService, WrappingService],
) -> None:
    service, client = key_service
    service.troubles = [failing(500)] * 5
    with pytest.raises(KeysUnavailable, match=r"ENCRYPTION_KMS_URL.*status 500"):
        await client.wrap("k1", b"1" * 32)
    assert len(service.asked) == 3


async def test_a_key_service_that_is_away_is_told_apart_from_a_refusal() -> None:
    async with listening(Starlette()) as port:
        pass
    with pytest.raises(KeysUnavailable, match="ConnectError"):
        await WrappingService(address(port), sleep=_at_once).wrap("k1", b"1" * 32)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"wrapped": 1}', '{"wrapped": "not base64!"}', '{"other": "AA=="}']
)
async def test_an_answer_out_of_the_protocol_is_refused(
    key_service: tuple[KeyService, WrappingService], text: str
) -> None:
    service, client = key_service

    async def answer() -> Response:
        return PlainTextResponse(text)

    service.troubles = [answer]
    with pytest.raises(EncryptionKeysInvalid, match="not of the protocol"):
        await client.wrap("k1", b"1" * 32)


async def test_a_wrong_token_is_refused_and_redirects_are_not_followed(
    key_service: tuple[KeyService, WrappingService],
) -> None:
    service, client = key_service
    async with listening(service.app) as port:
        with pytest.raises(EncryptionKeysInvalid, match="status 403"):
            await WrappingService(address(port), "wrong").wrap("k1", b"1" * 32)
    service.troubles = [failing(307)]
    with pytest.raises(EncryptionKeysInvalid, match="status 307"):
        await client.wrap("k1", b"1" * 32)


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def failing(status: int) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return PlainTextResponse("trouble", status_code=status, headers={"Location": "/v1/wrap"})

    return answer


def key_file(folder: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path
