"""Small Hugging Face tokenizers with the chat templates of real models."""

import json
import pathlib

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

_TURNS = (
  "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' +"
  " message.content + '<|im_end|>' + '\n' }}{%- endfor %}"
)
QWEN2 = (
  "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are"
  " Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n'"
  " }}{%- endif %}"
  + _TURNS
  + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# What matters of it here: thoughts are cut out of answers before the last user
# message, and without thinking the header of the next answer closes a thought.
QWEN3 = (
  "{%- for message in messages %}{%- set content = message.content %}"
  "{%- if message.role == 'assistant' and '</think>' in content %}"
  "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
  "{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}"
  "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
  "{%- if enable_thinking is defined and enable_thinking is false %}"
  "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
_GEMMA_TURNS = (
  "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
  "{% set role = message['role'] %}{% endif %}"
)
GEMMA2 = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}"
  "{% for message in messages %}"
  + _GEMMA_TURNS
  + "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim +"
  " '<end_of_turn>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = (
  "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
  "{%- set first = messages[0]['content'] + '\n\n' -%}"
  "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}"
  "{%- set turns = messages -%}{%- endif -%}{%- for message in turns -%}"
  + _GEMMA_TURNS
  + "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
  "{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}"
  "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
TEMPLATES = {
  "qwen2.5": QWEN2,
  "qwen3": QWEN3,
  "gemma": GEMMA2,
  "gemma2": GEMMA2,
  "gemma3": GEMMA3,
}


def _qwen(vocab_size: int) -> tokenizers.Tokenizer:
  """Trains a byte-level BPE with Qwen's special tokens."""
  made = tokenizers.Tokenizer(models.BPE())
  split = pre_tokenizers.Split(
    tokenizers.Regex(r"\s*[\r\n]+|[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+"),
    "isolated",
  )
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
  made.decoder = decoders.ByteLevel()
  made.train_from_iterator(
    [text_formats.render_observation(rules.EMPTY_BOARD, rules.X)] * 2,
    trainers.BpeTrainer(
      vocab_size=vocab_size - 4,
      special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  made.add_tokens(["<think>", "</think>"])
  return made


def _gemma(vocab_size: int) -> tokenizers.Tokenizer:
  """Makes a BPE with byte fallback and Gemma's special tokens."""
  special = ["<pad>", "<eos>", "<bos>", "<unk>"]
  special += ["<start_of_turn>", "<end_of_turn>"]
  pieces = special + [f"<0x{b:02X}>" for b in range(256)]
  pieces += [chr(c) for c in range(33, 127)] + ["\u2581", "\n", "\n\n"]
  pieces += ["th", "\u2581I"]
  assert len(pieces) <= vocab_size
  vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
  merges = [("\n", "\n"), ("t", "h"), ("\u2581", "I")]
  made = tokenizers.Tokenizer(
    models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>")
  )
  made.normalizer = normalizers.Replace(" ", "\u2581")
  made.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  made.add_special_tokens(special)
  return made


def write_tokenizer(
  directory: pathlib.Path, family: str, vocab_size: int = 384
) -> None:
  """Writes the files of a tokenizer as transformers does."""
  directory.mkdir(parents=True, exist_ok=True)
  qwen = family.startswith("qwen")
  made = (_qwen if qwen else _gemma)(vocab_size)
  made.save(str(directory / "tokenizer.json"))
  names = (
    {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if qwen
    else {
      "bos_token": "<bos>",
      "eos_token": "<eos>",
      "pad_token": "<pad>",
      "unk_token": "<unk>",
    }
  )
  settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast"}
  (directory / "tokenizer_config.json").write_text(json.dumps(settings))
  (directory / "chat_template.jinja").write_text(TEMPLATES[family])
  ends = ["<|im_end|>", "<|endoftext|>"] if qwen else ["<eos>", "<end_of_turn>"]
  ids = [made.token_to_id(name) for name in ends]
  (directory / "generation_config.json").write_text(
    json.dumps({"eos_token_id": ids})
  )
