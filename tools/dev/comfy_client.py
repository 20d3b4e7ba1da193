"""Talk to a ComfyUI server on this machine: submit prompts, follow them, fetch what they made."""

from __future__ import annotations

import json
import mimetypes
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

LOCAL_HOSTS = ("127.0.0.1", "localhost")
RECEIVE_SECONDS = 0.5
FINAL = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ComfyClientError(Exception):
    """The server refused a request or went away."""


class ComfyValidationError(ComfyClientError):
    """The server does not accept a prompt.

    Attributes:
        error: The server's error for the whole prompt.
        node_errors: Its errors by node id.
    """

    def __init__(self, error: Mapping[str, Any], node_errors: Mapping[str, Any]) -> None:
        self.error = dict(error)
        self.node_errors = dict(node_errors)
        lines = [_describe(self.error)] if self.error else ["A part of the prompt was refused:"]
        for node_id, entry in self.node_errors.items():
            for reason in entry.get("errors", []):
                lines.append(f"  node {node_id} ({entry.get('class_type')}): {_describe(reason)}")
        super().__init__("\n".join(lines))


class ComfyRunError(ComfyClientError):
    """A node raised while a prompt ran.

    Attributes:
        node_id: Id of the node; inside an expansion, of the node that expanded.
        node_type: Its class.
        exception_type: Name of what it raised.
        exception_message: The message.
        result: What had happened until then.
    """

    def __init__(self, data: Mapping[str, Any], result: RunResult) -> None:
        self.node_id = str(data.get("node_id"))
        self.node_type = str(data.get("node_type"))
        self.exception_type = str(data.get("exception_type"))
        self.exception_message = str(data.get("exception_message")).strip()
        self.traceback = "".join(data.get("traceback") or ())
        self.result = result
        super().__init__(
            f"node {self.node_id} ({self.node_type}) raised {self.exception_type}: "
            f"{self.exception_message}\n{self.traceback}"
        )


class ComfyTimeoutError(ComfyClientError):
    """A prompt did not finish in time; it was interrupted."""


@dataclass(frozen=True)
class Progress:
    """How far one node is.

    Attributes:
        node: Id of the node that runs; inside an expansion, of the copy.
        display_node: Id of the node in the submitted graph that shows it.
        value: Steps done.
        maximum: Steps in all.
    """

    node: str
    display_node: str
    value: float
    maximum: float


@dataclass
class RunResult:
    """What a prompt did.

    Attributes:
        prompt_id: The server's id of the prompt.
        status: "success" or "interrupted".
        outputs: UI outputs from the history by node id, as in {"9": {"images": [...]}}.
        executed: Ids of the nodes that ran, in order; nodes of an expansion with their own ids.
        displayed: For each of `executed`, the node of the submitted graph that shows it.
        cached: Ids of the nodes whose outputs were reused.
        messages: Every other message of the server while the prompt ran: (type, data).
        previews: Number of preview images received.
        seconds: Time from submission to the end.
    """

    prompt_id: str
    status: str = "running"
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    displayed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    previews: int = 0
    seconds: float = 0.0

    def files(self, node_id: str | None = None) -> list[dict[str, str]]:
        """Files among the outputs: filename, subfolder and type of each, as view() takes them."""
        chosen = self.outputs if node_id is None else {node_id: self.outputs.get(node_id, {})}
        return [
            {"subfolder": "", "type": "output", **entry}
            for output in chosen.values()
            for value in output.values()
            if isinstance(value, list)
            for entry in value
            if isinstance(entry, dict) and "filename" in entry
        ]


class ComfyClient:
    """A client of one server.

    Args:
        url: Address of the server; only this machine is allowed.
        request_timeout: Seconds for one HTTP request.

    Raises:
        ValueError: The address is not one of this machine.
    """

    def __init__(self, url: str, request_timeout: float = 60.0) -> None:
        host = urllib.parse.urlsplit(url).hostname
        if host not in LOCAL_HOSTS:
            raise ValueError(f"The client talks to 127.0.0.1 only, got {url!r}.")
        self.url = url.rstrip("/")
        self.request_timeout = request_timeout
        self.client_id = str(uuid.uuid4())

    def object_info(self, node_type: str | None = None) -> dict[str, Any]:
        """Schemas of all nodes by id, or of one."""
        suffix = f"/{urllib.parse.quote(node_type)}" if node_type else ""
        return dict(self.get_json(f"/object_info{suffix}"))

    def system_stats(self) -> dict[str, Any]:
        """Versions and devices of the server."""
        return dict(self.get_json("/system_stats"))

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The server's record of a finished prompt, or None."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def submit(
        self,
        prompt: Mapping[str, Any],
        extra_data: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
    ) -> str:
        """Queue a prompt in API format and return its id.

        Args:
            prompt: The graph.
            extra_data: Passed on with the prompt.
            targets: Ids of the output nodes that are wanted; None wants all.

        Raises:
            ComfyValidationError: The server refuses the prompt, or would drop a part of it.
        """
        body = {"prompt": prompt, "client_id": self.client_id, "extra_data": dict(extra_data or {})}
        if targets is not None:
            body["partial_execution_targets"] = list(targets)
        reply = self.post_json("/prompt", body)
        prompt_id = str(reply["prompt_id"])
        if reply.get("node_errors"):
            self.post_json("/queue", {"delete": [prompt_id]})
            self.interrupt(prompt_id)
            raise ComfyValidationError({}, reply["node_errors"])
        return prompt_id

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt a running prompt, or whatever runs."""
        self.post_json("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """Content of a file below the output, input or temp folder."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self._request(f"/view?{query}")

    def upload_image(
        self, path: str | Path, name: str | None = None, subfolder: str = "", overwrite: bool = True
    ) -> dict[str, str]:
        """Put a file into the input folder; returns its name, subfolder and type there."""
        path = Path(path)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": subfolder, "overwrite": str(overwrite).lower()}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        ]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{name or path.name}"\r\nContent-Type: {kind}\r\n\r\n'
        )
        body = "".join([*parts, head]).encode() + path.read_bytes()
        body += f"\r\n--{boundary}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={boundary}"
        return dict(json.loads(self._request("/upload/image", body, content_type)))

    def run(
        self,
        prompt: Mapping[str, Any],
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float = 600.0,
        extra_data: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
        on_message: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> RunResult:
        """Submit a prompt and follow it to its end.

        Args:
            prompt: The graph in API format.
            on_progress: Called for every progress report of a running node.
            timeout: Seconds until the prompt is interrupted.
            extra_data: Passed on with the prompt, such as {"extra_pnginfo": {...}}.
            targets: Ids of the output nodes that are wanted; None wants all.
            on_message: Called with type and data of every message, as it arrives.

        Returns:
            The result; its status is "interrupted" if somebody interrupted the prompt.

        Raises:
            ComfyValidationError: The server refuses the prompt.
            ComfyRunError: A node raised.
            ComfyTimeoutError: It took longer than `timeout`.
            ComfyClientError: The server went away.
        """
        socket = self._connect()
        try:
            started = time.monotonic()
            result = RunResult(self.submit(prompt, extra_data, targets))
            final: dict[str, Any] = {}
            for kind, data in self._messages(socket, result, started + timeout):
                if on_message is not None:
                    on_message(kind, data)
                if kind in FINAL:
                    result.status, final = FINAL[kind], data
                    break
                _record(result, kind, data, on_progress)
        finally:
            socket.close()
        result.seconds = time.monotonic() - started
        result.outputs = self._outputs(result.prompt_id)
        if result.status == "error":
            raise ComfyRunError(final, result)
        return result

    def get_json(self, path: str) -> Any:
        """GET a path and parse the reply."""
        return json.loads(self._request(path))

    def post_json(self, path: str, body: Any) -> Any:
        """POST JSON to a path; the parsed reply, or None if it is empty."""
        reply = self._request(path, json.dumps(body).encode(), "application/json")
        return json.loads(reply) if reply else None

    def _connect(self) -> websocket.WebSocket:
        address = f"ws{self.url.removeprefix('http')}/ws?clientId={self.client_id}"
        socket = websocket.WebSocket()
        try:
            socket.connect(address, timeout=self.request_timeout, http_no_proxy=list(LOCAL_HOSTS))
        except (OSError, websocket.WebSocketException) as error:
            raise ComfyClientError(f"No websocket at {address}: {error}") from error
        socket.settimeout(RECEIVE_SECONDS)
        return socket

    def _messages(
        self, socket: websocket.WebSocket, result: RunResult, deadline: float
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """JSON messages that concern a prompt, until the deadline."""
        while True:
            if time.monotonic() > deadline:
                self.interrupt(result.prompt_id)
                raise ComfyTimeoutError(
                    f"Prompt {result.prompt_id} was interrupted: it took too long. "
                    f"Nodes that ran: {result.executed}"
                )
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            except (OSError, websocket.WebSocketException) as error:
                raise ComfyClientError(
                    f"The server at {self.url} went away while {result.prompt_id} ran: {error}"
                ) from error
            if isinstance(message, bytes):
                result.previews += 1
                continue
            if not message:
                raise ComfyClientError(f"The server at {self.url} closed the connection.")
            parsed = json.loads(message)
            data = parsed.get("data") or {}
            if data.get("prompt_id", result.prompt_id) == result.prompt_id:
                yield parsed["type"], data

    def _outputs(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """UI outputs of a prompt; the server files them just after its last message."""
        deadline = time.monotonic() + self.request_timeout
        while time.monotonic() < deadline:
            entry = self.history(prompt_id)
            if entry is not None:
                return dict(entry.get("outputs", {}))
            time.sleep(0.02)
        raise ComfyClientError(f"The server at {self.url} has no history of prompt {prompt_id}.")

    def _request(
        self, path: str, body: bytes | None = None, content_type: str | None = None
    ) -> bytes:
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with _opener.open(request, timeout=self.request_timeout) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            raise _refusal(path, error) from error
        except OSError as error:
            raise ComfyClientError(f"No answer from {self.url}{path}: {error}") from error


def _record(
    result: RunResult,
    kind: str,
    data: dict[str, Any],
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """File one message of a running prompt."""
    if kind == "executing" and data.get("node") is not None:
        result.executed.append(str(data["node"]))
        result.displayed.append(str(data.get("display_node") or data["node"]))
    elif kind == "execution_cached":
        result.cached.extend(map(str, data.get("nodes", ())))
    elif kind == "progress_state":
        running = [n for n in data.get("nodes", {}).values() if n.get("state") == "running"]
        for node in running if on_progress else ():
            display = str(node.get("display_node_id") or node["node_id"])
            on_progress(Progress(str(node["node_id"]), display, node["value"], node["max"]))
    elif kind != "progress":
        result.messages.append((kind, data))


def _describe(reason: Mapping[str, Any]) -> str:
    """One line of an error entry of the server."""
    parts = (str(reason.get("message", "")).strip(), str(reason.get("details", "")).strip())
    return ": ".join(part for part in parts if part) or str(reason.get("type"))


def _refusal(path: str, error: urllib.error.HTTPError) -> ComfyClientError:
    """The exception for an HTTP error reply."""
    text = error.read().decode(errors="replace")
    try:
        reply = json.loads(text)
    except ValueError:
        reply = None
    if isinstance(reply, dict) and "node_errors" in reply:
        whole = reply.get("error")
        whole = whole if isinstance(whole, dict) else {"message": str(whole)}
        return ComfyValidationError(whole, reply["node_errors"] or {})
    return ComfyClientError(f"{path.split('?')[0]} answered {error.code}: {text[:500]}")
