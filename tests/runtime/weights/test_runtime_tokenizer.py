"""Text becomes the token ids that transformers makes of it, and comes back whole."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from runtime.models.hf_config import parse_config
from runtime.weights.chat_template import ChatTemplate
from runtime.weights.load import load_model
from runtime.weights.tokenizer import Tokenizer, folder_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = parse_config(
    {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 320,
        "max_position_embeddings": 512,
        "eos_token_id": [7, 2],
    },
    where="config.json",
)
CORPUS = (
    "",
    " ",
    "Hello, world!  Two spaces,\ttab,\n\nnewlines\r\n and trailing   ",
    "In 1984 it was 3.14159 % of 1,000,000; 0x7fff != 0b101 (42nd)",
    "don't they've I'll WE'RE it's",
    "naïve café — “quotes” … № ™",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "Привет мир! Ελλάδα; שלום עולם; مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b\ufeff",
    "def f(x: int) -> str:\n    return f'{x:>08_}'  # noqa\n",
    "<|im_start|>user\nhi<|im_end|><|endoftext|> <|im_start |>",
    "https://example.org/a/b?c=d&e=%20#f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\x00\x01\x7f\x80\xff",
)
# transformers does not know SmolLM2's rule that every numeral is a piece by itself. It shows only in
# numerals beyond ASCII, since no merge joins digits. Above U+3FFFF the vocabulary lacks a byte.
CHARACTERS = st.characters(
    max_codepoint=0x3FFFF,
    exclude_categories=["Cs", "Nd", "Nl", "No"],
    include_characters="0123456789",
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 12 + 30?"},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "And <|im_end|> doubled?"},
]


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    tokenizer = load_model(smollm2, load_format="dummy").tokenizer
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def single_bytes(tokenizer: Tokenizer) -> set[int]:
    """Bytes that have a token of their own: in SmolLM2 not all do."""
    known = (tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
    return {token[0] for token in known if len(token) == 1}


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    return load(smollm2.parent, gguf_file=smollm2.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small byte-level tokenizer that begins texts with <s>."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.weights
def test_a_ggufs_ids_are_those_of_transformers(tokenizer: Tokenizer, reference: Any) -> None:
    for text in CORPUS:
        assert tokenizer.encode(text) == reference.encode(text), repr(text)


@pytest.mark.weights
@given(text=st.text(CHARACTERS))
def test_any_text_becomes_the_same_ids_and_comes_back(
    tokenizer: Tokenizer, reference: Any, single_bytes: set[int], text: str
) -> None:
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text)
    if single_bytes.issuperset(text.encode()):
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.weights
def test_digits_are_tokens_by_themselves(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([i]) for i in tokenizer.encode("x=1234")][-4:] == list("1234")
    # a space before a numeral is not part of its token, as it is before a word
    assert tokenizer.encode(" ²") == tokenizer.encode(" ") + tokenizer.encode("²")


@pytest.mark.weights
def test_a_chat_is_rendered_as_transformers_renders_it(
    tokenizer: Tokenizer, reference: Any
) -> None:
    for prompt in (True, False):
        for messages in (CHAT, CHAT[1:2]):
            expected = reference.apply_chat_template(
                messages, add_generation_prompt=prompt, return_dict=False
            )
            assert tokenizer.chat(messages, add_generation_prompt=prompt) == expected


@pytest.mark.weights
def test_smollm2s_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 49_152
    assert tokenizer.bos_id == 1
    assert tokenizer.eos_ids == (2,)
    assert tokenizer.decode([0, 1, 28120, 2]) == tokenizer.decode([28120])
    assert tokenizer.token_bytes(2) == b"<|im_end|>"


@pytest.mark.weights
def test_the_bytes_of_tokens_make_up_the_text(tokenizer: Tokenizer) -> None:
    for text in CORPUS:
        parts = [tokenizer.token_bytes(i) for i in tokenizer.encode(text)]
        assert b"".join(parts).decode() == text
    assert tokenizer.token_bytes(1_000_000) == b""


def test_a_folders_tokenizer_is_the_one_transformers_finds(folder: Path) -> None:
    from transformers import AutoTokenizer

    (folder / "config.json").write_text('{"model_type": "llama"}')
    settings_file = folder / "tokenizer_config.json"
    said = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps({**said, "tokenizer_class": "PreTrainedTokenizerFast"}))
    load: Any = AutoTokenizer.from_pretrained
    theirs, ours = load(folder), folder_tokenizer(folder, CONFIG)
    assert ours is not None
    for text in CORPUS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text)[0] == ours.bos_id == 0
        assert ours.decode(ours.encode(text)) == text
    assert ours.chat(CHAT) == theirs.apply_chat_template(CHAT, return_dict=False)
    assert ours.chat(CHAT).count(0) == 1, "the template writes <s> itself"


def test_answers_end_at_what_the_model_says(folder: Path) -> None:
    tokenizer = folder_tokenizer(folder, CONFIG)
    assert tokenizer is not None
    assert tokenizer.eos_ids == (7, 2)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_older_folders_keep_special_tokens_as_objects(folder: Path) -> None:
    said = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    tokenizer = folder_tokenizer(folder, CONFIG)
    assert tokenizer is not None
    assert tokenizer.special_tokens == {"bos_token": "<s>"}


def test_a_template_file_goes_before_the_config(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ eos_token }}")
    tokenizer = folder_tokenizer(folder, CONFIG)
    assert tokenizer is not None
    assert tokenizer.chat(CHAT) == [1]


def test_pieces_of_sentencepiece_vocabularies_have_bytes_too() -> None:
    vocab = {"\u2581the": 0, "<0xE2>": 1, "re": 2}
    tokenizer = Tokenizer(Backend(models.BPE(vocab=vocab, merges=[])))
    tokenizer.backend.add_special_tokens(["\u2581"])
    assert [tokenizer.token_bytes(i) for i in range(3)] == [b" the", b"\xe2", b"re"]


def test_templates_know_what_transformers_gives_them() -> None:
    source = (
        "{%- for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') }}{{ tools is none }}{{ extra }}"
    )
    text = ChatTemplate(source, {}, "here").render(
        [{"role": "user", "content": "<é>"}, {}], extra="!"
    )
    year = datetime.now().astimezone().year
    assert text == '{"role": "user", "content": "<é>"}' + f"{year}True!"


def test_what_a_template_may_not_do_is_an_error() -> None:
    refuse = ChatTemplate("{{ raise_exception('roles must alternate') }}", {}, "folder")
    with pytest.raises(ValueError, match=r"folder: .+ refuses these messages: roles must altern"):
        refuse.render(CHAT)
    escape = ChatTemplate("{{ messages.__class__.__mro__ }}", {}, "folder")
    with pytest.raises(ValueError, match="unsafe"):
        escape.render(CHAT)
    with pytest.raises(ValueError, match="folder: the chat template does not compile"):
        ChatTemplate("{% for %}", {}, "folder")


def test_tokenizers_that_cannot_be_read_are_errors(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ValueError, match=r"chat_template.jinja: the chat template does not compi"):
        folder_tokenizer(folder, CONFIG)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: not a readable tokenizer"):
        folder_tokenizer(folder, CONFIG)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(ValueError, match=r"tokenizer.model is there but tokenizer.json is not"):
        folder_tokenizer(folder, CONFIG)
    (folder / "tokenizer.model").unlink()
    assert folder_tokenizer(folder, CONFIG) is None


def test_a_chat_needs_a_template(folder: Path) -> None:
    settings_file = folder / "tokenizer_config.json"
    settings_file.unlink()
    tokenizer = folder_tokenizer(folder, CONFIG)
    assert tokenizer is not None
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.chat(CHAT)
