from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.http import trusted
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig, acme_crm
from tests.segment_sandbox.customer import Customer
from tests.segment_sandbox.partner import Partner


@pytest.fixture
def config() -> SandboxConfig:
    return SandboxConfig(
        profile="observed", switches={"duplicate_rate": 0.0, "anomalies": "none"}, seed=1, time_scale=0
    )


@pytest.fixture
def sandbox(config: SandboxConfig) -> Sandbox:
    return Sandbox(config)


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(sandbox.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox.test") as client:
        yield client


@pytest.fixture
def customer(sandbox: Sandbox, http: httpx.AsyncClient) -> Customer:
    return Customer(sandbox, http)


@pytest.fixture
async def partner() -> AsyncIterator[Partner]:
    partner = Partner()
    async with partner.listening():
        yield partner


@pytest.fixture
async def delivering(config: SandboxConfig, partner: Partner) -> AsyncIterator[Customer]:
    """A customer of a sandbox on a real socket, whose destination is enabled and delivers to `partner`."""
    config = SandboxConfig(
        switches=config.switches,
        profile=config.profile,
        catalog=(acme_crm(partner.url),),
        seed=config.seed,
        time_scale=0,
    )
    sandbox = Sandbox(config)
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url, verify=trusted()) as client:
        customer = Customer(sandbox, client)
        await customer.enable()
        yield customer
