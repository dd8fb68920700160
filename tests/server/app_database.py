"""The app under test: tables made by a one-time task, as the documentation says. ``app_database:app``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from flask import Flask, Response, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, event

from flask_warmcache import WarmCache
from tests.support.reporting import Measured, note

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
app = Flask(__name__)
app.config["WARMCACHE_DIR"] = os.environ["WARMCACHE_DIR"]
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["TEST_DATABASE"]
db = SQLAlchemy(app)
warmcache = WarmCache(app)


@event.listens_for(Engine, "before_cursor_execute")
def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    if statement.lstrip().startswith("CREATE TABLE"):
        note("create")


class Comic(db.Model):  # type: ignore[name-defined, misc]
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(80), nullable=False)


class Marker(db.Model):  # type: ignore[name-defined, misc]
    id = db.Column(db.Integer, primary_key=True)
    comic_id = db.Column(db.ForeignKey(Comic.id), nullable=False)


@warmcache.once("create-tables", version="1")
def create_tables() -> None:
    db.create_all()


@app.get("/comics")
def comics() -> Response:
    warmcache.ensure("create-tables", wait=15)
    return jsonify(count=db.session.query(Comic).count())


@app.post("/comics")
def add() -> Response:
    warmcache.ensure("create-tables", wait=15)
    comic = Comic(name=request.args["name"])
    db.session.add(comic)
    db.session.flush()
    db.session.add(Marker(comic_id=comic.id))
    db.session.commit()
    return jsonify(id=comic.id)


app.wsgi_app = Measured(app.wsgi_app)  # type: ignore[method-assign]
note("loaded")
