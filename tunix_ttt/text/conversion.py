"""SentencePiece tokenizers as the files that transformers loads.

The ids of a text are the same, but for text that spells a control token:
SentencePiece leaves it text, and transformers makes the token of it.
"""

import json
from typing import Any

from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers

from tunix_ttt.text import tokenizers as tokenizers_lib

# How SentencePiece writes a space.
_SPACE = "\u2581"

# `chat.gemma_template` in Jinja: a system message goes in front of the first
# user message, and no white space is lost.
_TEMPLATE = (
  "{{- bos_token -}}{%- if messages[0]['role'] == 'system' -%}"
  "{%- set first = messages[0]['content'] + '\\n\\n' -%}"
  "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}"
  "{%- set turns = messages -%}{%- endif -%}{%- for message in turns -%}"
  "{%- set role = 'model' if message['role'] == 'assistant' else 'user' -%}"
  "{{- '<start_of_turn>' + role + '\\n' + (first if loop.first else '')"
  " + message['content'] + '<end_of_turn>\\n' -}}{%- endfor -%}"
  "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}"
  "{%- endif -%}"
)


def to_hugging_face(
  tokenizer: tokenizers_lib.SentencePieceTokenizer,
) -> dict[str, bytes]:
  """Returns the files of a tokenizer, by name, its own `tokenizer.model` too.

  Args:
    tokenizer: as `tokenizers.train_tokenizer` makes it: BPE with byte fallback,
      its text not normalised.
  """
  contents = tokenizer.files()
  made = _convert(contents[tokenizers_lib.FILE])
  names = {
    "bos_token": tokenizer.bos_id(),
    "eos_token": tokenizer.eos_id(),
    "pad_token": tokenizer.pad_id(),
  }
  settings = {name: made.id_to_token(token) for name, token in names.items()}
  model: Any = made.model
  settings |= {
    "unk_token": model.unk_token,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
  }
  return contents | {
    "tokenizer.json": made.to_str(pretty=True).encode(),
    "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
    "chat_template.jinja": _TEMPLATE.encode(),
  }


def _convert(serialized: bytes) -> tokenizers.Tokenizer:
  module: Any = sentencepiece_model_pb2
  model = module.ModelProto()
  model.ParseFromString(serialized)
  kinds = module.ModelProto.SentencePiece.Type
  pieces: list[Any] = list(model.pieces)
  ids = {piece.piece: number for number, piece in enumerate(pieces)}
  normal = {x.piece: x.score for x in pieces if x.type == kinds.NORMAL}
  made = tokenizers.Tokenizer(
    models.BPE(
      ids,
      _merges(normal, ids),
      byte_fallback=True,
      unk_token=model.trainer_spec.unk_piece,
    )
  )
  made.normalizer = normalizers.Replace(" ", _SPACE)
  made.decoder = decoders.Sequence(
    [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  special = (kinds.CONTROL, kinds.UNKNOWN)
  made.add_special_tokens([x.piece for x in pieces if x.type in special])
  # Symbols are found before anything is merged, in the text's normal form.
  made.add_tokens(
    [
      tokenizers.AddedToken(x.piece, special=False, normalized=True)
      for x in pieces
      if x.type == kinds.USER_DEFINED
    ]
  )
  return made


def _merges(
  scores: dict[str, float], ids: dict[str, int]
) -> list[tuple[str, str]]:
  """Lists every way to make a piece of two, the best piece's ways first.

  SentencePiece merges whatever two neighbours make a piece.
  """
  merges = []
  for piece in sorted(scores, key=lambda piece: -scores[piece]):
    halves = [(piece[:n], piece[n:]) for n in range(1, len(piece))]
    known = [(a, b) for a, b in halves if a in scores and b in scores]
    merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
  return merges
