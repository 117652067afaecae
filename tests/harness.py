"""Small models on disk, requests and tasks for lm-evaluation-harness, in the words of the small tokenizer."""

import json
from pathlib import Path

import architectures
import numpy as np
import torch
from transformers import AutoModelForCausalLM

#: Where each architecture has its W_in and W_out.
WEIGHTS = {
    "neox-parallel": "gpt_neox.layers.{}.mlp.dense_{}",
    "gpt2": "transformer.h.{}.mlp.c_{}",
    "llama-grouped": "model.layers.{}.mlp.{}_proj",
}
_NAMES = {
    "neox-parallel": dict(W_in="h_to_4h", W_out="4h_to_h"),
    "gpt2": dict(W_in="fc", W_out="proj"),
    "llama-grouped": dict(W_in="up", W_out="down"),
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }} .{% endfor %}"
CONTEXTS = [
    "When Mary and John went to the store , John gave",
    "Mary",
    "John gave a drink to",
    "The capital of France is",
    "Mary and John went to the store ." * 12,  # longer than the context
    "Paris is in ",  # whose last space belongs to the continuation
]
CONTINUATIONS = [" the store", " Mary", " Paris is in France"]
_WORDS = (
    "Mary and John went to the store , gave a drink . in is of Paris London France Rome Italy".split()
)
#: The last is longer than the context and never repeats itself: of windows with the same tokens the harness
#: (0.4.13) takes one's log-likelihoods for another's, in batches.
TEXTS = [
    "Mary",
    "Mary and John went to the store , John gave a drink to the",
    " ".join(_WORDS[(i * i + i // 20) % 20] for i in range(120)),
]


def save(name: str, folder: Path, *, chat: bool = False) -> Path:
    """A random model with its tokenizer."""
    architectures.save_folder(name, folder)
    if chat:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    return folder


def edited(name: str, folder: Path, cuts: dict[str, float]):
    """The plain model of `transformers` with weights truncated by NumPy."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for site, fraction in cuts.items():
        _, layer, _, matrix = site.split(".")
        path = WEIGHTS[name].format(layer, _NAMES[name][matrix])
        weight = model.get_submodule(path).weight
        u, s, v = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
        kept = int(fraction * len(s))
        with torch.no_grad():
            weight.copy_(torch.tensor((u[:, :kept] * s[:kept]) @ v[:kept]))
    return model


def requests(kind: str, arguments: list[tuple]) -> list:
    """As the harness makes them."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, place) for place, each in enumerate(arguments)]


PAIRS = [(one, other) for one in [*CONTEXTS, ""] for other in CONTINUATIONS]


def generating(**options) -> list[tuple]:
    """Of each context; `until` and so on."""
    return [(each, {"until": ["\n"], "max_gen_toks": 7, **options}) for each in CONTEXTS]


def everything(lm) -> dict[str, list]:
    """What a model of the harness says to requests of each kind."""
    return {
        "loglikelihood": lm.loglikelihood(requests("loglikelihood", PAIRS)),
        "loglikelihood_rolling": lm.loglikelihood_rolling(
            requests("loglikelihood_rolling", [(each,) for each in TEXTS])
        ),
        "generate_until": lm.generate_until(requests("generate_until", generating())),
    }


def apart(one: dict[str, list], other: dict[str, list]) -> float:
    """The largest difference of log-likelihoods, relative above 1, if all texts and greedy marks are equal."""
    assert one["generate_until"] == other["generate_until"]
    pairs = zip(one["loglikelihood"], other["loglikelihood"], strict=True)
    worst = 0.0
    for (first, greedy), (second, again) in pairs:
        assert greedy == again
        worst = max(worst, abs(first - second) / max(1.0, abs(first)))
    rolling = zip(one["loglikelihood_rolling"], other["loglikelihood_rolling"], strict=True)
    return max(worst, *(abs(a - b) / max(1.0, abs(a)) for a, b in rolling))


HEAD = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
target_delimiter: ""
fewshot_delimiter: " . "
"""
_TASKS = {
    "words_rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}{{a}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}, {metric: byte_perplexity}]
""",
    "words_said": """output_type: generate_until
doc_to_text: q
doc_to_target: a
generation_kwargs: {until: ["."], max_gen_toks: 5}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
    "words_choice": """output_type: multiple_choice
doc_to_text: q
doc_to_choice: "{{[a, b]}}"
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "words_greedy": """output_type: loglikelihood
doc_to_text: q
doc_to_target: a
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}
NAMES = list(_TASKS)


def write_tasks(folder: Path, rows: int = 12) -> Path:
    """A task of each output type, and a group of two of them."""
    folder.mkdir(parents=True, exist_ok=True)
    names, places = ["Mary", "John"], ["Paris", "London", "Rome", "Italy", "France", "the"]
    lines = [
        dict(
            q=f"{names[i % 2]} went to the store in {places[i % 6]} , {names[(i // 2) % 2]} gave a drink to",
            a=f" {names[(i // 3) % 2]}",
            b=" the",
        )
        for i in range(rows)
    ]
    data = folder / "words.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in lines))
    for name, text in _TASKS.items():
        (folder / f"{name}.yaml").write_text(HEAD.format(name=name, data=data) + text)
    (folder / "group.yaml").write_text(
        "group: words_group\ntask: [words_choice, words_greedy]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    )
    return folder
