"""``trimkit batch``: a data set of pictures and questions through OpenAI-compatible servers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trimkit.cli import _common as common
from trimkit.cli._progress import progress
from trimkit.errors import ConfigError
from trimkit.io.files import check_writable
from trimkit.io.numbers import MAX_NEW_TOKENS

NAME = "batch"


def command(
    dataset: Annotated[str, typer.Argument(help="A .jsonl or .parquet file, or a directory of pictures.")],
    server: Annotated[
        list[str], typer.Option("--server", metavar="URL", help="Address of a server; repeatable, for several.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="A new JSONL file.")],
    question: Annotated[
        str | None, typer.Option("--question", help="Question for rows without one; required for a directory.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Name of the model on the servers.", show_default="the first that they list"),
    ] = None,
    method: common.MethodOption = None,
    budget: common.BudgetOption = None,
    settings: common.SetOption = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=MAX_NEW_TOKENS, help="Most tokens of a reply.")
    ] = 256,
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, max=1024, help="Requests at once, per server.")] = 8,
    retries: Annotated[int, typer.Option("--retries", min=0, max=100, help="Retries per row.")] = 4,
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds to wait for a reply.")] = 300.0,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="TRIMKIT_API_KEY", help="Sent as a bearer token.")
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Ask the rows without an answer again.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Ask servers about every row of a data set.

    Writes one line per row, in order; a row without an answer has its error there. Run the same command again to continue a
    stopped one. Without --method, --budget and --set, the servers use their own settings.
    """
    from trimkit.serving.batch import run_batch
    from trimkit.serving.batch.dataset import count_rows, read_rows
    from trimkit.serving.batch.servers import servers_of

    common.check_output(output, dataset)
    check_writable(f"{output}.part", [dataset], append=True)
    rows = read_rows(dataset, question)
    servers = servers_of(server, api_key=api_key, in_flight=in_flight, retries=retries, timeout=timeout)
    request = _request(servers, model, max_new_tokens, _reduction(method, budget, settings))
    with progress("batch", count_rows(dataset)) as step:
        summary = run_batch(rows, output, servers, request, retry_errors=retry_errors, on_row=lambda: step(1))
    found = {"rows": summary.rows, "errors": summary.errors, "reused": summary.reused}
    if as_json:
        common.print_json({"path": output, **found})
        return
    print(f"written  {output}")
    print(f"rows     {summary.rows}, {summary.errors} without an answer, {summary.reused} from an earlier run")


def _reduction(method: str | None, budget: str | None, settings: list[str] | None) -> dict[str, Any]:
    """What goes into the requests, checked here; empty where nothing was said."""
    if method is None and budget is None and not settings:
        return {}
    if method is not None and "," in method:
        raise ConfigError("a batch has one method: name one, and run the command again for another")
    common.pick_method(method, budget, settings)
    given = {"method": method, "budget": None if budget is None else common.read_value("--budget", budget)}
    return {**{key: value for key, value in given.items() if value is not None}, **common.read_settings(settings)}


def _request(servers: Any, model: str | None, max_tokens: int, trim: dict[str, Any]) -> Any:
    """What the requests share; the servers are asked for a name where none is given."""
    from trimkit.serving.batch import RequestSettings
    from trimkit.serving.batch.run import first_model

    return RequestSettings(model or first_model(servers), max_tokens, trim=trim)
