"""What somebody triggers by hand: a replay, a deletion, the test suite and the test event."""

from __future__ import annotations

from enable_with_segment.segment_sandbox.delivery.request import basic
from tests.segment_sandbox.customer import TRACK, WEB, WEB_DESTINATION, Customer
from tests.segment_sandbox.partner import Answer, Partner


async def test_behaviour_058_replay(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", {**TRACK, "timestamp": "2020-01-01T00:00:00Z"})
    await delivering.send("identify", {"userId": "u"})
    await delivering.idle()
    delivering.sandbox.state.world.destinations[WEB_DESTINATION].enabled = False
    replay = await delivering.control("replay", {"destination_name": WEB_DESTINATION, "type": "track"})
    assert replay == {"replayed": 1, "filtered": 0}
    await delivering.idle()
    again = partner.events[2]
    assert (again["messageId"], again["timestamp"]) == ("m-1", "2020-01-01T00:00:00.000Z")
    assert again["integrations"] == {"All": False, "Acme CRM": True}


async def test_behaviour_059_delete_reaches_every_connected_destination(delivering: Customer, partner: Partner) -> None:
    partner.answers.append(Answer(503))
    ordered = await delivering.control("delete", {"workspace": "workspaces/northwind", "user_id": "cust_20418"})
    assert ordered["overall_status"] == "RUNNING"
    await delivering.idle(retries=False)
    await delivering.control("clock", {"advance_seconds": 23})
    await delivering.idle()
    message = partner.events[1]
    project = delivering.sandbox.state.world.sources[WEB].project_id
    assert (message["type"], message["userId"], message["projectId"]) == ("delete", "cust_20418", project)
    assert message["context"] is message["integrations"] is None
    assert str(message["messageId"]).startswith(f"delete-{ordered['id']}::job-1-")
    assert str(message["originalTimestamp"]).endswith("m=+51820.117442901")
    regulations = (await delivering.http.get("/_sandbox/regulations")).json()["regulations"]
    assert regulations[0]["overall_status"] == "FINISHED"


async def test_behaviour_059_a_refused_delete_has_failed(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(404)
    await delivering.control("delete", {"workspace": "workspaces/northwind", "user_id": "u"})
    await delivering.idle()
    regulations = (await delivering.http.get("/_sandbox/regulations")).json()["regulations"]
    assert regulations[0]["overall_status"] == "FAILED"


async def test_behaviour_059_fan_out_is_a_switch(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"delete_fan_out": False})
    await delivering.control("delete", {"workspace": "workspaces/northwind", "user_id": "u"})
    await delivering.idle()
    assert partner.received == []


async def test_behaviour_060_test_suite(delivering: Customer, partner: Partner) -> None:
    order = {"destination_name": WEB_DESTINATION, "api_key": "typed-in"}
    green = await delivering.control("test-suite", order)
    assert green["verdict"] == "green"
    kinds = ["page", "page", "identify", "track", "group", "track", "track", "screen"]
    assert [event["type"] for event in partner.events] == kinds
    assert all("messageId" not in event and "context" not in event for event in partner.events)
    assert partner.received[0].header("authorization") == basic("typed-in")

    partner.answers.append(Answer(501, b'{"message": "no pages"}'))
    assert (await delivering.control("test-suite", order))["verdict"] == "yellow"
    partner.answers.append(Answer(400))
    assert (await delivering.control("test-suite", order))["verdict"] == "red"


async def test_behaviour_061_test_event(delivering: Customer, partner: Partner) -> None:
    await delivering.control("filters", {"destination_name": WEB_DESTINATION, "drop_types": ["track"]})
    partner.answers.append(Answer(503, b'{"message": "Later"}'))
    tested = await delivering.control("test-event", {"destination_name": WEB_DESTINATION})
    request, response = tested["request"], tested["response"]
    assert isinstance(request, dict)
    assert isinstance(response, dict)
    assert request["headers"]["Authorization"] == "Basic ***"
    assert (response["status"], response["message"]) == (503, "Later")
    await delivering.idle()
    assert len(partner.received) == 1, "there is no retry"
    event = partner.events[0]
    assert event["event"] == "Test Event Name"
    assert "context" not in event
    assert event["email"]
