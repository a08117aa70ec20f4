"""What a tutorial builds: FastAPI and SQLModel on SQLite, one durable commit for each request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import event
from sqlmodel import JSON, Column, Field, Session, SQLModel, create_engine, select


class Received(SQLModel, table=True):
    """One event."""

    id: int | None = Field(default=None, primary_key=True)
    message_id: str = Field(unique=True)
    payload: dict[str, Any] = Field(sa_column=Column(JSON))


engine = create_engine(f"sqlite:///{os.environ['BENCH_FOLDER']}/fastapi.db", connect_args={"check_same_thread": False})


@event.listens_for(engine, "connect")
def _durable(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


SQLModel.metadata.create_all(engine)
app = FastAPI()


def session() -> Iterator[Session]:
    """One session for a request."""
    with Session(engine) as opened:
        yield opened


@app.post("/subscriptions/acme-crm", status_code=202)
def receive(payload: dict[str, Any], db: Annotated[Session, Depends(session)]) -> dict[str, str]:
    """Store an event that was not seen before."""
    if db.exec(select(Received.id).where(Received.message_id == payload["messageId"])).first() is None:
        db.add(Received(message_id=payload["messageId"], payload=payload))
        db.commit()
    return {"message": "Accepted."}
