"""A real S3-compatible server (moto's) on loopback, as a process's own thread, and the environment that
points clients at it."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serves one empty bucket named `bucket`; yields the variables, which hold in this process and those that
    it starts meanwhile."""
    import boto3
    import s3fs
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None: ...

    app, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def serve(environ: Any, start: Any) -> Iterable[bytes]:
        with one_at_a_time:  # moto looks a key up and then writes it; a store does both at once
            return list(app(environ, start))

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    env = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-stored",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with mock.patch.dict(os.environ, env):
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
        try:
            yield env
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.shutdown()
            thread.join()
