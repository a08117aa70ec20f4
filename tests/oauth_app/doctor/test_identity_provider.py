"""``doctor`` asks the operators' identity provider as a login would."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.doctor import Finding, Level
from enable_with_segment.oauth_app.doctor.examination import examine
from enable_with_segment.oauth_app.doctor.network import check_identity_provider
from enable_with_segment.oauth_app.runtime.settings import Settings
from tests.oauth_app.operators.identity_provider import CLIENT_ID, CLIENT_SECRET, running_provider


def settings_for(issuer: str) -> Settings:
    """A service whose operators sign in there."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        oidc_issuer=issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=SecretStr(CLIENT_SECRET),
        operators=("operator@acme.example",),
    )


async def look(issuer: str) -> Finding:
    """The one finding about a provider."""
    (finding,) = [finding async for finding in check_identity_provider(settings_for(issuer))]
    assert CLIENT_SECRET not in str(finding)
    return finding


async def test_a_provider_that_answers_for_its_own_name_is_fine() -> None:
    async with running_provider() as provider:
        assert (await look(provider.issuer)).level is Level.OK
        assert (await look(f"{provider.issuer}/")).level is Level.OK


async def test_doctor_fails_when_the_discovery_document_names_another_issuer() -> None:
    async with running_provider() as provider:
        address, provider.issuer = provider.issuer, "https://login.example.com"
        finding = await look(address)
    assert finding.level is Level.FAILURE
    assert "names another issuer" in finding.message
    assert "OIDC_ISSUER" in (finding.advice or "")


async def test_doctor_fails_when_there_is_no_discovery_document() -> None:
    async with running_provider() as provider:
        finding = await look(f"{provider.issuer}/another-realm")
    assert finding.level is Level.FAILURE


async def test_doctor_fails_when_the_provider_cannot_be_reached() -> None:
    assert (await look("http://127.0.0.1:9")).level is Level.FAILURE


async def test_the_examination_looks_only_where_a_provider_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HANDLERS", "examples.acme_crm.handlers:crm")
    monkeypatch.setenv("ENCRYPTION_KEYS", generate_encryption_key())
    assert "identity-provider" not in {finding.check async for finding in examine()}
    for name, value in (("ISSUER", "http://127.0.0.1:9"), ("CLIENT_ID", "x"), ("CLIENT_SECRET", "a-secret")):
        monkeypatch.setenv(f"OIDC_{name}", value)
    monkeypatch.setenv("OPERATORS", "operator@acme.example")
    assert "identity-provider" in {finding.check async for finding in examine()}
