"""Connecting a workspace once more that Segment calls connected already, over real processes (contract 2.8)."""

from __future__ import annotations

import json

from tests.journey.deployment import DESTINATION, Deployment


async def test_case_015_who_disconnected_here_connects_again_with_the_settings_of_the_new_link(
    deployment: Deployment,
) -> None:
    service = deployment.serve()
    first = await deployment.connect(await deployment.link("acct_northwind"))
    install = (await deployment.reaches(first, "connected"))["install"]
    assert (await deployment.command("installs", "disconnect", install)).status == 0
    await deployment.reaches(first, "disconnected")
    assert not (await deployment.destinations())[DESTINATION]["enabled"]

    made = await deployment.command("connect-link", "--account", "acct_northwind", "--setting", "region=eu", "--json")
    again = await deployment.connect(json.loads(made.output)["url"])
    assert (await deployment.reaches(again, "connected"))["install"] == install
    destination = (await deployment.destinations())[DESTINATION]
    assert (destination["enabled"], destination["config"]["region"]) == (True, "eu")
    await deployment.send("track", event="Signed Up", userId="u-1", messageId="m-again")
    assert await deployment.delivered("m-again") == [202]
    assert service.terminate() == 0
