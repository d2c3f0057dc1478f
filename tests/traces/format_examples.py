"""Small files of every trace format, written from the formats' schemas."""

from __future__ import annotations

import json


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


BAILIAN = jsonl(
    {
        "chat_id": 7,
        "parent_chat_id": -1,
        "timestamp": 61.114,
        "input_length": 40,
        "output_length": 9,
        "type": "text",
        "turn": 1,
        "hash_ids": [5, 6, 7],
    },
    {
        "chat_id": 9,
        "parent_chat_id": 7,
        "timestamp": 62.5,
        "input_length": 64,
        "output_length": 3,
        "type": "search",
        "turn": 2,
        "hash_ids": [5, 6, 8, 9],
    },
)
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
BURST_SESSIONS = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Log Type
5,12,3.5,ChatGPT,472,18,Conversation log
20,12,1,ChatGPT,500,10,Conversation log
21,,1,GPT-4,500,10,API log
"""
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n"
VIDUR_LENGTHS = (
    "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.9\n"
)
NANOFLOW = "TIMESTAMP,ContextTokens,GeneratedTokens\nXXX,107,15\nXXX,396,513\n"
SUB_REQUESTS = jsonl(
    {
        "session_id": "a",
        "arrival_time_ns": 70,
        "sub_requests": [
            {
                "input_toks": 3,
                "output_toks": 1,
                "tool_duration_ns": 500,
                "input_tok_ids": [1, 2, 3],
            },
            {"input_toks": 4, "output_toks": 2, "input_tok_ids": [1, 2, 3, 9]},
        ],
    },
)
FLAT = jsonl(
    {
        "input_toks": 2,
        "output_toks": 2,
        "arrival_time_ns": 40,
        "input_tok_ids": [4, 5],
        "output_tok_ids": [6, 7],
    },
    {"input_toks": 5, "output_toks": 1, "arrival_time_ns": 90},
)
CHAT = [
    {"from": "human", "value": "What is a trie?" * 3},
    {"from": "gpt", "value": "A tree of prefixes."},
    {"from": "human", "value": "And a radix tree?"},
    {"from": "gpt", "value": "One without lone children."},
]
LMCACHE = jsonl(
    {"timestamp": 2_000_000, "input": "abcdefghijkl", "output": "xy", "session_id": "s"},
    {"timestamp": 1_500_000, "input": "abcdefgh", "output": "", "session_id": "s"},
)
APPLIED = jsonl(
    {
        "num_turns": 2,
        "input_prompt_length": 16,
        "assistant_response_length": [4, 5],
        "tool_call_output_length": [8, 0],
        "tool_call_latency": [0.01, 2],
        "final_assistant_response_length": 6,
    }
)
AGENTIC_HEADER = {
    "schema": "dynamo.agentic_mooncake",
    "version": 2,
    "block_size": 4,
    "hash_id_scope": "local",
}


def agentic(name: str, session: str = "s", **fields: object) -> dict[str, object]:
    return {
        "request_id": name,
        "session_id": session,
        "input_length": 4,
        "output_length": 2,
        "hash_ids": [1],
        **fields,
    }


def dynamo(name: str, start: int, took: int, session: str | None = None, parent: str = "") -> dict:
    row: dict[str, object] = {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_end",
        "event_time_unix_ms": start + took,
        "request": {
            "request_id": name,
            "output_tokens": 2,
            "request_received_ms": start,
            "total_time_ms": took,
            "replay": {
                "trace_block_size": 4,
                "input_length": 6,
                "input_sequence_hashes": [2**64 - 1, start],
            },
        },
    }
    if session is not None:
        row["agent_context"] = {"session_id": session}
        if parent:
            row["agent_context"] = {"session_id": session, "parent_session_id": parent}
    return row


MOONCAKE_SESSION = jsonl(
    {
        "timestamp": 0,
        "session_id": "s",
        "input_length": 600,
        "output_length": 5,
        "hash_ids": [1, 2],
    },
    {
        "timestamp": 70,
        "session_id": "s",
        "input_length": 700,
        "output_length": 5,
        "hash_ids": [1, 3],
    },
    {
        "delay": 2.5,
        "session_id": "s",
        "input_length": 900,
        "output_length": 5,
        "hash_ids": [1, 4],
    },
)
DELTAS = jsonl(
    {"timestamp": 0, "session_id": "s", "input_length": 16, "output_length": 4, "hash_ids": [201]},
    {"delay": 5, "session_id": "s", "input_length": 8, "output_length": 4, "hash_ids": [202]},
)
AIPERF = jsonl(
    {"timestamp": 0, "input_length": 512, "output_length": 128},
    {"timestamp": 120, "input_length": 1024, "output_length": 256, "hash_ids": [1, 2, 3]},
)

EXAMPLES = {
    "bailian": BAILIAN,
    "burstgpt": BURST,
    "vidur": VIDUR,
    "nanoflow": NANOFLOW,
    "llmservingsim": FLAT,
    "sharegpt": jsonl({"id": "c", "conversations": CHAT}),
    "lmbenchmark": json.dumps([{"input": "hello there", "output_length": 3}], indent=2),
    "lmcache": LMCACHE,
    "applied-compute": APPLIED,
    "agentic-mooncake": jsonl(AGENTIC_HEADER, agentic("a", not_before_ms=0, dependencies=[])),
    "dynamo": jsonl({"event_type": "request_payload", "request_id": "q"}, dynamo("a", 10, 5)),
    "mooncake": MOONCAKE_SESSION,
    "mooncake-delta": DELTAS,
    "aiperf": AIPERF,
    "aiperf-single-turn": jsonl({"text": "hello", "output_length": 4}),
    "aiperf-multi-turn": jsonl({"session_id": "x", "turns": [{"text": "hello"}]}),
    "mt-bench": jsonl({"question_id": 81, "category": "writing", "turns": ["one", "two"]}),
}
