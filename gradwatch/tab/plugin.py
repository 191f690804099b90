"""Plugin: the routes of the GradWatch tab.

Data come through TensorBoard's data provider alone, so that both of its loaders, and every
directory that it can read, will do. Whatever is stored, a route answers in words.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from gradwatch.comparison import compare
from gradwatch.errors import ArgumentError, GradwatchError
from gradwatch.tab.heatmap import heatmap
from gradwatch.tab.overview import overview
from gradwatch.tab.profile import profile
from gradwatch.tab.query import Query, RequestError, shown
from gradwatch.tab.rule_text import rule_text
from gradwatch.tab.runs import RunStore
from gradwatch.tab.static_files import ROOT, mime_type, names
from gradwatch.tab.statistics import STATISTIC_OF
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tensorboard.schema import PLUGIN_NAME, encode_json

logger = logging.getLogger("gradwatch")

MOST_COLUMNS = 4000
"""More than any screen has pixels across."""

Answer = dict[str, Any] | bytes
Route = Callable[[Request], Answer]


class GradWatchPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard ships no types
    """The tab.

    Args:
        context: TensorBoard's `TBContext`.

    Raises:
        GradwatchError: If it has no data provider.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        if context.data_provider is None:
            raise GradwatchError("this TensorBoard has no data provider; start it with --logdir")
        self._store = RunStore(context.data_provider)

    def is_active(self) -> bool:
        """False: TensorBoard asks only where its data provider has nothing of ours."""
        return False

    def frontend_metadata(self) -> Any:
        """What TensorBoard shows the tab as, and the module that draws it."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="GradWatch")

    def get_plugin_apps(self) -> dict[str, Any]:
        """Route → the WSGI application that answers it."""
        routes: dict[str, Route] = {
            "/runs": self._runs,
            "/run": self._run,
            "/heatmap": self._heatmap,
            "/profile": self._profile,
            "/compare": self._compare,
            "/rule": self._rule,
        }
        answers = {path: _application(partial(_answer, route)) for path, route in routes.items()}
        return {**answers, **{f"/{name}": _application(partial(_file, name)) for name in names()}}

    def _runs(self, request: Request) -> Answer:
        context, experiment = _source(request)
        tokens = self._store.tokens(context, experiment)
        return {"runs": [{"name": name, "token": token} for name, token in tokens.items()]}

    def _run(self, request: Request) -> Answer:
        return overview(self._stored(request, "run"))

    def _heatmap(self, request: Request) -> Answer:
        query = Query(request.args)
        name = query.text("statistic")
        if name not in STATISTIC_OF:
            raise RequestError(
                f"There is no statistic {shown(name)}; take one of {', '.join(STATISTIC_OF)}."
            )
        return heatmap(
            self._stored(request, "run"),
            STATISTIC_OF[name],
            columns=query.count("columns", most=MOST_COLUMNS),
            first=query.optional_step("first", -math.inf),
            last=query.optional_step("last", math.inf),
        )

    def _profile(self, request: Request) -> Answer:
        step = Query(request.args).step("step")
        return profile(self._stored(request, "run"), step)

    def _compare(self, request: Request) -> Answer:
        statistic = Query(request.args).optional_text("statistic")
        a, b = self._stored(request, "a"), self._stored(request, "b")
        comparison = compare(a.recording, b.recording, names=(a.name, b.name), statistic=statistic)
        return comparison.as_json()

    def _rule(self, request: Request) -> Answer:
        return rule_text(Query(request.args).text("code"))

    def _stored(self, request: Request, argument: str) -> StoredRun:
        """The run that an argument names."""
        name = Query(request.args).text(argument)
        run = self._store.run(*_source(request), name)
        if run is None:
            raise RequestError(
                f"There is no run {shown(name)} of gradwatch here; pick one of those that the "
                "route `runs` lists, or wait until TensorBoard has loaded it.",
                status=404,
            )
        return run


def _source(request: Request) -> tuple[Any, str]:
    """TensorBoard's context of a request, and the experiment that it is about."""
    return plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)


def _application(respond: Callable[[Request], Response]) -> Any:
    """The WSGI application of a function from request to response; it answers reading alone."""

    @Request.application
    def application(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _error(request, f"{shown(request.method)} is not answered; use GET.", 405)
        return respond(request)

    return application


def _answer(route: Route, request: Request) -> Response:
    """What a route answers, or in a sentence why it does not."""
    try:
        content = route(request)
    except RequestError as error:
        return _error(request, str(error), error.status)
    except ArgumentError as error:
        return _error(request, f"{error}.", 400)
    except errors.PublicError as error:
        return _error(request, f"TensorBoard cannot read its data: {error}", error.http_code)
    except Exception as error:  # noqa: BLE001 -- TensorBoard and the rest of the page go on
        logger.warning("gradwatch: %s cannot be answered: %r", request.path, error)
        return _error(
            request,
            f"This cannot be answered ({type(error).__name__}); gradwatch should have said why: "
            "please report it with the event files.",
            500,
        )
    if isinstance(content, bytes):
        return _respond(request, content, "application/octet-stream")
    return _respond(request, encode_json(content), "application/json")


def _error(request: Request, sentence: str, status: int) -> Response:
    return _respond(request, encode_json({"error": sentence}), "application/json", status)


def _respond(request: Request, content: bytes, mime: str, status: int = 200) -> Response:
    response: Response = http_util.Respond(request, content, mime, code=status)
    response.headers["Cache-Control"] = "no-store"
    return response


def _file(name: str, request: Request) -> Response:
    """A file of the page; the browser asks each time whether it has changed."""
    try:
        content = (ROOT / name).read_bytes()
    except OSError as error:
        sentence = f"{name} cannot be read ({error.strerror}); install gradwatch again."
        return _error(request, sentence, 404)
    response: Response = http_util.Respond(request, content, mime_type(name))
    response.set_etag(hashlib.sha256(content).hexdigest()[:16])
    response.make_conditional(request)
    del response.headers["Date"]  # the server adds its own
    return response
