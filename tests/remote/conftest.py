"""A pool, and the servers that it is shared through: on this machine, started by the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hub_stub import TOKEN, Hub, serve
from pools import embedding_of, tiny

from pituning.pool import Pool

sys.path.append(str(Path(__file__).parents[1] / "cli"))  # its `command.py`


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Three experts of which two are embedded."""
    pool = Pool.create(tmp_path / "pool", init_seed=5)
    pool.add(tiny("a"), embedding_of(tiny("a")))
    pool.add(tiny("b"), embedding_of(tiny("b"), 2.0))
    pool.add(tiny("c"))
    return pool


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub of its own, with a cache of its own, and a token that may write."""
    from huggingface_hub import constants, hf_api

    with serve() as hub:
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage is no part of the stub
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket's URL."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": "none",
        "AWS_SHARED_CREDENTIALS_FILE": "none",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b-{uuid4().hex}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"


@pytest.fixture(params=["hub", "s3", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of place, empty."""
    makers: dict[str, Callable[[], str]] = {
        "hub": lambda: request.getfixturevalue("hub") and "me/pool",
        "s3": lambda: f"{request.getfixturevalue('bucket')}/shared/pool",
        "file": lambda: (tmp_path / "shared" / "pool").as_uri(),
        "memory": lambda: f"memory://{uuid4().hex}",
    }
    return makers[request.param]()
