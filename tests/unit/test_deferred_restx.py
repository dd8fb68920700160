"""Deferred blueprints of Flask-RESTX, which have routes, error handling and pages of documentation."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.support.late_blueprints import LateShop

pytest.importorskip("flask_restx")
API = """
from flask import Blueprint
from flask_restx import Api, Resource, fields

bp = Blueprint("shop_api", __name__)
api = Api(bp, title="LateShop")
items = api.namespace("items")
item = items.model("Item", {"id": fields.Integer, "name": fields.String(required=True)})

@items.route("/<int:number>")
class One(Resource):
    @items.marshal_with(item)
    def get(self, number):
        if number > 9:
            api.abort(410, "no such item", number=number)
        return {"id": number, "name": "comb", "secret": 1}

    @items.expect(item, validate=True)
    def put(self, number):
        return api.payload
"""


def prepare(app: Flask) -> None:
    """Prepare the app as docs/deferred.md says."""
    from flask_restx.apidoc import apidoc

    app.register_blueprint(apidoc)
    app.extensions["restx"] = {"apidoc_registered": True}


def test_api_answers_like_registered_one(calm_shop: LateShop) -> None:
    calm_shop.app.add_url_rule("/", "home", lambda: "home")
    prepare(calm_shop.app)
    calm_shop.defer(calm_shop.write("shop_api", API), url_prefix="/v1")
    assert calm_shop.client.get("/").text == "home"
    assert calm_shop.states() == ["pending"]
    assert calm_shop.client.get("/v1/items/3").json == {"id": 3, "name": "comb"}
    missing = calm_shop.client.get("/v1/items/10")
    assert (missing.status_code, missing.json) == (410, {"message": "no such item", "number": 10})
    wrong = calm_shop.client.put("/v1/items/3", json={"id": 1})
    assert (wrong.status_code, list((wrong.json or {})["errors"])) == (400, ["name"])
    assert calm_shop.client.put("/v1/items/3", json={"id": 1, "name": "hat"}).json == {"id": 1, "name": "hat"}
    swagger = calm_shop.client.get("/v1/swagger.json").json or {}
    assert swagger["basePath"] == "/v1" and list(swagger["paths"]) == ["/items/{number}"]
    assert "/swaggerui/swagger-ui.css" in calm_shop.client.get("/v1/").text
    with calm_shop.client.get("/swaggerui/swagger-ui.css") as style:
        assert style.mimetype == "text/css"
    assert calm_shop.client.get("/nothing").mimetype == "text/html", "the app's own errors must not change"


def test_api_with_files_elsewhere_is_refused(calm_shop: LateShop, caplog: pytest.LogCaptureFixture) -> None:
    calm_shop.defer(calm_shop.write("shop_api", API), url_prefix="/v1")
    assert calm_shop.client.get("/v1/items/3").status_code == 503
    assert "adds '/swaggerui/<path:filename>', which is not under '/v1'" in caplog.text
    assert calm_shop.client.get("/swaggerui/swagger-ui.css").status_code == 404
