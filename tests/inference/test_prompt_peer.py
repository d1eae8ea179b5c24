"""A peer's cache that is dead, stuck or talks nonsense costs no picture and one short wait."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from typing_extensions import override

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.inference.cached_texts import encode_texts
from diptych.inference.prompt_cache import PAUSE_S, ServicePrompts, SharedPrompts
from diptych.models.experts import load_experts
from diptych.models.text_encoders import PromptRow, TextEncoders
from diptych.rpc.channel import ChannelConfig
from diptych.v1 import embedding_cache_pb2 as pb

TIMEOUT_S = 0.4
ROWS = [PromptRow(text="a red circle"), PromptRow(text="a blue square")]
Answer = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def text(nano_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> TextEncoders:
    base = load_experts(str(nano_pair / "base"), None, cache_dir=tmp_path_factory.mktemp("c")).base
    assert base is not None
    return base.text


@contextmanager
def listener(greeting: bytes | None) -> Iterator[str]:
    """Accept every connection, and say nothing, or a greeting before hanging up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    one, _ = server.accept()
                    held.append(one)
                    if greeting is not None:
                        one.sendall(greeting)
                        one.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for one in held:
            one.close()


@contextmanager
def nobody() -> Iterator[str]:
    """Return an address that refuses connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{free.getsockname()[1]}"


class Everything(grpc.GenericRpcHandler):  # type: ignore[type-arg] # not at runtime
    """Answers every unary call with what is made of its bytes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @override
    def service(self, handler_call_details: Any) -> Any:
        async def serve(request: bytes, context: Any) -> bytes:
            del context
            return self._answer(request)

        return grpc.unary_unary_rpc_method_handler(serve)


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """Serve ``answer`` for every method."""
    ports: list[int] = []
    ends: list[Callable[[], object]] = []
    ready = threading.Event()

    async def main() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        own = grpc.aio.server()
        own.add_generic_rpc_handlers((Everything(answer),))
        ports.append(own.add_insecure_port("127.0.0.1:0"))
        await own.start()
        ends.append(lambda: loop.call_soon_threadsafe(ended.set))
        ready.set()
        await ended.wait()
        await own.stop(0)

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, main())
        assert ready.wait(30)
        yield f"127.0.0.1:{ports[0]}"
        ends[0]()
        serving.result(30)


def told(value: bytes) -> Answer:
    """Return an answer that has ``value`` for every key."""

    def answer(request: bytes) -> bytes:
        keys = pb.FetchEmbeddingsRequest.FromString(request).keys
        sha256 = hashlib.sha256(value).digest()
        found = [
            pb.EmbeddingHeader(key=key, size_bytes=len(value), sha256=sha256, value=value)
            for key in keys
        ]
        return pb.FetchEmbeddingsResponse(embeddings=found).SerializeToString()

    return answer


PEERS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "refuses": nobody,
    "never answers": lambda: listener(None),
    "hangs up": lambda: listener(b""),
    "is no gRPC": lambda: listener(b"HTTP/1.1 200 OK\r\n\r\nhello" * 99),
    "sends no messages": lambda: server(lambda _: b"\xff" * 999),
    "knows nothing": lambda: server(lambda _: b""),
    "sends no embeddings": lambda: server(told(b"no safetensors")),
}


@pytest.mark.parametrize("peer", PEERS)
def test_pictures_are_conditioned_all_the_same(text: TextEncoders, peer: str) -> None:
    now = [100.0]
    with PEERS[peer]() as address:
        config = ClientConfig(channel=ChannelConfig(address=address, max_attempts=1))
        with EmbeddingCacheClient(config) as client:
            prompts = SharedPrompts(
                ServicePrompts(client, timeout_s=TIMEOUT_S), clock=lambda: now[0]
            )
            plain, waits_s = encode_texts(text, ROWS, None, None), []
            for _ in range(3):
                began_s = time.monotonic()
                found = encode_texts(text, ROWS, None, prompts)
                waits_s.append(time.monotonic() - began_s)
                assert [row.is_cached for row in found] == [False, False]
                for ours, theirs in zip(found, plain, strict=True):
                    assert torch.equal(ours.embeds.hidden, theirs.embeds.hidden)
                    assert torch.equal(ours.embeds.pooled, theirs.embeds.pooled)
                now[0] += PAUSE_S + 0.1
            prompts.close()
    assert max(waits_s) < TIMEOUT_S + 2.0
    assert min(waits_s[1:]) < TIMEOUT_S
