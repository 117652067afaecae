"""`tl-truncate lm-eval`: tasks of lm-evaluation-harness, uncut and cut on the same samples."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from tl_truncate.checks import natural, positive, require_extra
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.changes import style_of
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions
from tl_truncate.cli.shared.options import PATH, BatchSize, Out, Resume, Seed, WithControls
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.writing import check_new, say_written, write_tables
from tl_truncate.evals.paired import benchmark
from tl_truncate.evals.result import Benchmarks, shown_change
from tl_truncate.experiments.scoring.drawn import VERDICTS, towards
from tl_truncate.markup import interval
from tl_truncate.statistics import Estimate


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """How tasks are asked, as the harness' own options say."""

    num_fewshot: Annotated[int | None, typer.Option(help="Examples in front of each question.")] = None
    include_path: Annotated[Path | None, typer.Option(help="A folder of further tasks.", **PATH)] = None
    limit: Annotated[
        float | None, typer.Option(help="So many samples of each task, or a share below 1.")
    ] = None
    chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask in the tokenizer's chat template.")
    ] = False
    system_instruction: Annotated[str | None, typer.Option(help="In front of all.")] = None
    max_gen_toks: Annotated[
        int | None, typer.Option(help="Most tokens of a generated answer; as each task has it.")
    ] = None
    bos: Annotated[
        bool | None,
        typer.Option(
            "--add-bos-token/--no-bos-token", help="By default as the tokenizer's files have it."
        ),
    ] = None

    def to_arguments(self) -> dict[str, Any]:
        """As the library takes them.

        Raises:
            ValueError: if one of them does not fit.
        """
        limit = self.limit
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f"--limit must be a positive number of samples or a share, got {limit}.")
        if self.num_fewshot is not None:
            natural("--num-fewshot", self.num_fewshot)
        if self.max_gen_toks is not None:
            positive("--max-gen-toks", self.max_gen_toks)
        if self.include_path is not None and not self.include_path.is_dir():
            raise ValueError(f"--include-path must be a folder that exists, got {self.include_path}.")
        return dict(
            include_path=self.include_path,
            num_fewshot=self.num_fewshot,
            limit=int(limit) if limit is not None and limit.is_integer() else limit,
            apply_chat_template=self.chat_template,
            system_instruction=self.system_instruction,
            gen_kwargs=None if self.max_gen_toks is None else {"max_gen_toks": self.max_gen_toks},
            add_bos_token=self.bos,
        )


@app.command("lm-eval")
@kind
@grouped
def lm_eval_command(
    *,
    source: ModelOptions,
    tasks: Annotated[
        str, typer.Option(help="Names, separated by commas; `tl_truncate_sums` ships with the package.")
    ],
    cutting: CutOptions,
    asking: AskingOptions,
    controls: WithControls = False,
    draws: Annotated[int | None, typer.Option(help="Of each control.")] = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    out: Out = None,
    resume: Resume = False,
    printed: PrintOptions,
) -> None:
    """Runs tasks of lm-evaluation-harness uncut and cut, and says what changed.

    Example: `tl-truncate lm-eval --model demo --cut blocks.27.mlp.W_out=0.1 --tasks tl_truncate_sums`

    With --out what is finished is kept task by task, and goes on by --resume; `tl-truncate report` makes
    a page of it.
    """
    require_extra("evals")
    check_new(out, resume)
    positive("--batch-size", batch_size)
    if draws is not None:
        positive("--draws", draws)
    asked = asking.to_arguments()
    chosen = cutting.read()
    found = benchmark(
        source.load(),
        chosen,
        tasks=[name.strip() for name in tasks.split(",") if name.strip()],
        **asked,
        controls=controls,
        draws=draws,
        seed=seed,
        batch_size=batch_size,
        run_dir=None if out is None else out / "run",
        resume=resume,
        progress=printed.for_people,
    )
    written = [] if out is None else write_tables(out, _tables(found), found.to_json())
    if printed.print(found.to_json(), found.frame):
        return
    _say_scores(found)
    for row in found.controls.to_dict("records"):
        say(_verdict(row))
    for note in found.notes:
        say(f"lm-eval: {note}")
    if out is not None:
        say_written(out, ["run", *written])


def _tables(found: Benchmarks) -> dict[str, Any]:
    tables = {"table": found.frame, "samples": found.samples}
    return tables | ({"controls": found.controls} if len(found.controls) else {})


def _say_scores(found: Benchmarks) -> None:
    record, rows = found.record, found.frame.to_dict("records")
    columns = [
        Column("task", [row["task"] for row in rows], left=True),
        Column("metric", [_metric(row) for row in rows], left=True),
        Column("shots", [str(row["shots"]) for row in rows], drop=3),
        Column("n", [str(row["n"]) for row in rows], drop=2),
        Column("uncut", [_number(row["uncut"]) for row in rows]),
    ]
    if found.cuts:
        columns.append(Column("cut", [_number(row["cut"]) for row in rows], drop=1))
        columns.append(Column("change", [_change(row) for row in rows]))
    say_table(columns, title=f"{record.model}, {record.weights} weights, {len(found.cuts)} cuts")


def _metric(row: Any) -> str:
    return row["metric"] if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"


def _change(row: Any) -> Text:
    change = Text(shown_change(row))
    change.stylize(style_of(row["change"], row["q"]), 0, change.plain.index(" "))
    return change


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4f}"


def _verdict(row: Any) -> str:
    """Whether the cut does more than its control."""
    told = f"{row['task']} {row['metric']}: {row['control']}, {row['draws']} draws, change "
    told += f"{row['control_change']:+.3f} with a spread of {row['control_spread']:.3f}"
    nothing = float("nan")
    apart = Estimate(row["difference"], low=row["low"], high=row["high"], se=nothing, n=0)
    found = VERDICTS[towards(row["verdict"], row["change"])]
    return f"{told}. The cut less one draw: {interval(apart, signed=True)}: {found}."
