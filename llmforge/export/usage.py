"""How an exported folder is used, as the code that its model card shows."""

from __future__ import annotations

import json
from collections.abc import Mapping

_CAUSAL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this folder, or the name of the model on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained({model})
{adapted}{inputs}
outputs = model.generate(**inputs, max_new_tokens={new}, do_sample=False)
print(tokenizer.decode({answer}, skip_special_tokens=True))
"""

_IDS = """\
import torch
from transformers import AutoModelForCausalLM

path = "."  # this folder, or the name of the model on the hub
model = AutoModelForCausalLM.from_pretrained({model})
{adapted}inputs = torch.tensor([[1, 2, 3]])  # token ids: there is no tokenizer
print(model.generate(inputs, max_new_tokens={new}, do_sample=False)[0].tolist())
"""

_SEQ2SEQ = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

path = "."  # this folder, or the name of the model on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSeq2SeqLM.from_pretrained({model})
{adapted}inputs = tokenizer({prompt}, return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens={new}, do_sample=False)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
"""

_MASKED = """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

path = "."  # this folder, or the name of the model on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForMaskedLM.from_pretrained({model})
{adapted}inputs = tokenizer({prompt} + " " + tokenizer.mask_token, return_tensors="pt")
hidden = inputs.input_ids[0] == tokenizer.mask_token_id
print(tokenizer.decode(model(**inputs).logits[0][hidden].argmax(-1)))
"""

_LABELS = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = "."  # this folder, or the name of the model on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained({model})
{adapted}inputs = tokenizer({prompt}, return_tensors="pt")
label = int(model(**inputs).logits[0].argmax())
print({label})
"""

_WEIGHTS = """\
from safetensors.torch import load_file

weights = load_file({file})
for name, tensor in weights.items():
    print(name, tuple(tensor.shape))
"""

_GGUF = """\
llama-cli -m model.gguf -p {prompt} -n {new}
"""

_FORMS: Mapping[str, str] = {
    "next_token": _CAUSAL,
    "seq2seq": _SEQ2SEQ,
    "mlm": _MASKED,
    "classify": _LABELS,
}


def usage(
    *,
    layout: str,
    form: str,
    prompt: str,
    chat: bool,
    new: int,
    labels: tuple[str, ...] = (),
    has_tokenizer: bool = True,
    base: str | None = None,
    file: str = "model.safetensors",
) -> tuple[str, str] | None:
    """Return the language of a code block and its content; None for a form that is not known.

    Args:
        layout: of the folder.
        form: of the model.
        prompt: what it continues, answers or reads.
        chat: whether it answers messages.
        new: tokens to generate.
        labels: names of the labels it tells.
        has_tokenizer: whether ``AutoTokenizer`` reads the folder.
        base: the model that an adapter is for; None for a whole model.
        file: of the weights in the layout ``safetensors``.
    """
    if layout == "gguf":
        return "console", _GGUF.format(prompt=_quoted(prompt), new=new)
    if layout == "safetensors":
        return "python", _WEIGHTS.format(file=_quoted(file))
    template = _FORMS.get(form)
    if template is None:
        return None
    if not has_tokenizer:
        template = _IDS
    adapted = "" if base is None else "model = PeftModel.from_pretrained(model, path)\n"
    code = template.format(
        model=_model(base, labels),
        adapted=adapted,
        inputs=_chat_inputs(prompt) if chat else _text_inputs(prompt),
        answer="outputs[0][inputs.input_ids.shape[1] :]" if chat else "outputs[0]",
        prompt=_quoted(prompt),
        new=new,
        label=f"{list(labels)!r}[label]" if base else "model.config.id2label[label]",
    )
    return "python", code if base is None else f"from peft import PeftModel\n{code}"


def _model(base: str | None, labels: tuple[str, ...]) -> str:
    if base is None:
        return "path"
    return f"{_quoted(base)}, num_labels={len(labels)}" if labels else _quoted(base)


def _text_inputs(prompt: str) -> str:
    return f'inputs = tokenizer({_quoted(prompt)}, return_tensors="pt")'


def _chat_inputs(prompt: str) -> str:
    message = f'{{"role": "user", "content": {_quoted(prompt)}}}'
    return (
        f"messages = [{message}]\n"
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n)'
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
