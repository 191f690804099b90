"""The command `gradwatch`: demo, rules, explain, report, compare."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.theme import Theme

from gradwatch._version import __version__
from gradwatch.errors import GradwatchError, MissingExtraError
from gradwatch.report_words import printable
from gradwatch.rule_pages import rule_view, rules_table
from gradwatch.rule_settings import codes_of, known_rule, rules_with

Command = Callable[[argparse.Namespace, Console], int]

DEMO_NEEDS = ("sklearn", "tensorboard", "google_crc32c")
"""Modules that the extra `demo` installs beside the framework."""

PLAIN_MARKDOWN = Theme(
    {"markdown.code": "cyan", "markdown.h2": "bold", "markdown.item.bullet": "none"}
)
"""Without the backgrounds and underlines of rich's own style."""

USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name, those of the process by default.

    Returns:
        Exit status: 0, 2 if an argument cannot be used, 130 if it was interrupted; `report` has 1
        for findings.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    command: Command | None = arguments.command
    if command is None:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A layer's name or a formula may hold what the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="replace")
    try:
        return command(arguments, Console(theme=PLAIN_MARKDOWN, highlight=False))
    except GradwatchError as error:
        errors = Console(stderr=True, highlight=False)
        errors.print(f"[bold red]gradwatch:[/] {escape(printable(str(error)))}", soft_wrap=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.", style="dim")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradwatch", description="Which layers do not learn, why, and what to change."
    )
    parser.add_argument("--version", action="version", version=f"gradwatch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=None)
    _add_demo(commands)
    rules = commands.add_parser("rules", help="all rules with their thresholds")
    rules.set_defaults(command=_rules)
    explain = commands.add_parser("explain", help="one rule: what it means and how it measures")
    explain.add_argument("rule", help="code or name, for example GW101 or vanishing-gradient")
    explain.set_defaults(command=_explain)
    _add_report(commands)
    _add_compare(commands)
    return parser


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="what the rules say of stored runs",
        description="Reads the runs at or below a directory and runs the rules on them again.",
        epilog="Exit status: 0 if no run has an open warning or error, 1 if one has, 2 if nothing "
        "could be read or an argument cannot be used.",
    )
    report.add_argument("log_dir", metavar="LOGDIR", type=Path, help="what TensorBoard is given")
    report.add_argument(
        "--set",
        dest="settings",
        metavar="CODE.THRESHOLD=NUMBER",
        action="append",
        default=[],
        help="a threshold other than the default, for example GW101.depth=-4; may be repeated",
    )
    report.add_argument(
        "--rules", metavar="CODES", help="rules to report, for example GW101,GW201; all by default"
    )
    report.add_argument("--json", action="store_true", help="one JSON document, for scripts")
    report.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="write a page with heatmaps too, one file that opens without a server",
    )
    report.set_defaults(command=_report)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    compare = commands.add_parser(
        "compare",
        help="where two stored runs diverge",
        description="Finds the first step and layer at which one stored run leaves another.",
        epilog="Exit status: 0 if the runs were compared, 2 if one could not be read or an "
        "argument cannot be used.",
    )
    for run, meaning in (("RUN_A", "the run to hold the other against"), ("RUN_B", "the other")):
        compare.add_argument(
            run.lower(), metavar=run, type=Path, help=f"{meaning}: its directory, or its log_dir"
        )
    compare.add_argument(
        "--statistic",
        metavar="NAME",
        help="what to compare by, for example update_ratio; by default the backward signal "
        "(output_grad_norm), or grad_norm where a run has none",
    )
    compare.add_argument("--json", action="store_true", help="one JSON document, for scripts")
    compare.set_defaults(command=_compare)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser("demo", help="a network that does not learn, and one that does")
    demo.add_argument(
        "--framework",
        choices=("torch", "keras"),
        default="torch",
        help="keras runs on the backend that KERAS_BACKEND names (default: %(default)s)",
    )
    demo.add_argument(
        "--log-dir",
        type=Path,
        help="where the two runs are written, a new directory below runs/ by default",
    )
    demo.add_argument(
        "--steps",
        type=_positive,
        default=600,
        help="optimizer steps of each run (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the split, the weights and the batches (default: %(default)s)",
    )
    demo.set_defaults(command=_demo)


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return count


def _demo(arguments: argparse.Namespace, console: Console) -> int:
    framework = arguments.framework
    missing = [name for name in (framework, *DEMO_NEEDS) if find_spec(name) is None]
    if missing:
        extras = "demo" if framework == "torch" else f"demo,{framework}"
        raise MissingExtraError(
            f'the demo needs {", ".join(missing)}: pip install "gradwatch[{extras}]"'
        )
    from gradwatch.demo.contest import show
    from gradwatch.demo.frameworks import networks_of

    show(
        console,
        networks_of(framework),
        log_dir=arguments.log_dir,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    return 0


def _rules(_: argparse.Namespace, console: Console) -> int:
    console.print(rules_table())
    return 0


def _explain(arguments: argparse.Namespace, console: Console) -> int:
    console.print(rule_view(known_rule(arguments.rule)))
    return 0


def _report(arguments: argparse.Namespace, console: Console) -> int:
    from gradwatch.report_command import ReportCommand

    command = ReportCommand(
        rules=rules_with(arguments.settings),
        codes=None if arguments.rules is None else codes_of(arguments.rules),
        as_json=arguments.json,
        html=arguments.html,
    )
    return command.run(arguments.log_dir, console)


def _compare(arguments: argparse.Namespace, console: Console) -> int:
    from gradwatch.compare_command import CompareCommand

    command = CompareCommand(statistic=arguments.statistic, as_json=arguments.json)
    return command.run(arguments.run_a, arguments.run_b, console)
