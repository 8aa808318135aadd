"""Converts SentencePiece tokenizers to files that transformers loads.

Ids are equal except for text that spells a control token: SentencePiece encodes
it as plain text, transformers as the control token.
"""

import json
from typing import Any

from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers

from tunix_ttt.text import tokenizers as tokenizers_lib

# `chat.gemma_template` in Jinja: a system message precedes the first user
# message, and whitespace is kept.
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
  """Returns the contents of the tokenizer files by name.

  The tokenizer is BPE with byte fallback and without normalization, as
  `tokenizers.train_tokenizer` returns it.
  """
  contents = tokenizer.files()
  converted = _convert(contents[tokenizers_lib.FILE])
  names = {
    "bos_token": tokenizer.bos_id(),
    "eos_token": tokenizer.eos_id(),
    "pad_token": tokenizer.pad_id(),
  }
  settings = {
    name: converted.id_to_token(token) for name, token in names.items()
  }
  model: Any = converted.model
  settings |= {
    "unk_token": model.unk_token,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
  }
  return contents | {
    "tokenizer.json": converted.to_str(pretty=True).encode(),
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
  scores = {x.piece: x.score for x in pieces if x.type == kinds.NORMAL}
  converted = tokenizers.Tokenizer(
    models.BPE(
      ids,
      _merges(scores, ids),
      byte_fallback=True,
      unk_token=model.trainer_spec.unk_piece,
    )
  )
  converted.normalizer = normalizers.Replace(" ", tokenizers_lib.SPACE)
  converted.decoder = decoders.Sequence(
    [
      decoders.Replace(tokenizers_lib.SPACE, " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
    ]
  )
  special = (kinds.CONTROL, kinds.UNKNOWN)
  converted.add_special_tokens([x.piece for x in pieces if x.type in special])
  # User symbols are matched in normalized text, before merging.
  converted.add_tokens(
    [
      tokenizers.AddedToken(x.piece, special=False, normalized=True)
      for x in pieces
      if x.type == kinds.USER_DEFINED
    ]
  )
  return converted


def _merges(
  scores: dict[str, float], ids: dict[str, int]
) -> list[tuple[str, str]]:
  """Lists all merges of two pieces into one, best piece first.

  SentencePiece merges any two neighbors that form a piece.
  """
  merges = []
  for piece in sorted(scores, key=lambda piece: -scores[piece]):
    halves = [(piece[:n], piece[n:]) for n in range(1, len(piece))]
    pairs = [(a, b) for a, b in halves if a in scores and b in scores]
    merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
  return merges
