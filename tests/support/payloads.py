"""Tables of what attackers put into requests: paths, their spellings, first lines, lengths, chunks, headers. Pure."""

from __future__ import annotations

from collections.abc import Callable

Spelling = Callable[[bytes], bytes]

ROUTE = b"/predictions/tiny"
NOWHERE = frozenset({400, 404})
UNREADABLE = frozenset({400})
#: What is read as a request of this protocol's other versions.
ANOTHER_VERSION = frozenset({400, 426})

#: Answered by a node's APIs, or by Envoy's own.
FORBIDDEN = (
    b"/models", b"/models/tiny", b"/models/tiny/1.0/set-default", b"/models?url=tiny.mar&initial_workers=1",
    b"/token?type=management", b"/workflows", b"/api-description", b"/metrics", b"/ping", b"/explanations/tiny",
    b"/predictions/..;/models", b"/v1/models/tiny:predict", b"/config_dump", b"/quitquitquit",
)  # fmt: skip


def _encoded(path: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte if byte != ord("/") else b"/" for byte in path)


SPELLINGS: tuple[Spelling, ...] = (
    lambda path: path,
    lambda path: path.upper(),
    lambda path: b"/" + path,
    lambda path: b"//" + path + b"//",
    lambda path: b"/." + path,
    lambda path: b"/%2e" + path,
    lambda path: b"/x/.." + path,
    lambda path: b"/x/%2e%2E" + path,
    lambda path: b"/%2f" + path[1:],
    lambda path: b"/%5c" + path[1:],
    lambda path: b"\\" + path[1:],
    lambda path: b"/\\" + path[1:],
    _encoded,
    lambda path: _encoded(path).replace(b"%", b"%25"),
    lambda path: path.replace(b"/", b"%2F"),
    lambda path: b"/" + path[1:].replace(b"/", b"%252f"),
    lambda path: path + b"/",
    lambda path: path + b"/.",
    lambda path: path + b";x=1",
    lambda path: path + b";" + ROUTE,
    lambda path: path + b"%00",
    lambda path: path + b"%00" + ROUTE,
    lambda path: path + b"\x00",
    lambda path: path + b"#" + ROUTE,
    lambda path: path + b"?" + ROUTE,
    lambda path: path + b"%3f" + ROUTE,
    lambda path: path + b"%20HTTP/1.1",
    lambda path: path + b"%0d%0aHost:%20x",
    lambda path: path + b"\xff\xfe",
    lambda path: path + b"\xc0\xaf\xe2\x80\xae",
    lambda path: path + b"/" + b"a" * 5000,
    lambda path: ROUTE + b"/../.." + path,
    lambda path: ROUTE + b"/1.0/../../.." + path,
    lambda path: ROUTE + b"/%2e%2e/%2e%2e" + path,
    lambda path: ROUTE + b"/%252e%252e/%252e%252e" + path,
    lambda path: ROUTE + b"/..%2f.." + path,
    lambda path: ROUTE + b"/..%5c.." + path,
    lambda path: ROUTE + b"\\..\\.." + path,
    lambda path: ROUTE + b"/..;/..;" + path,
    lambda path: ROUTE + b"%2f..%2f.." + path,
    lambda path: ROUTE + b";/../.." + path,
    lambda path: ROUTE + b"/1.0" + path,
    lambda path: ROUTE + b"%00/../.." + path,
    lambda path: ROUTE + b"#/../.." + path,
    lambda path: b"/predictions" + b"/.." + path,
    lambda path: b"/v2/models/tiny/infer/../../../.." + path,
    lambda path: b"/healthz/.." + path,
    lambda path: b"/healthz" + path,
)

ODD_TARGETS: tuple[tuple[bytes, frozenset[int]], ...] = (
    (b"*", NOWHERE),
    (b"", UNREADABLE),
    (b"models", NOWHERE),
    (b"?/models", NOWHERE),
    (b"http://", NOWHERE),
    (b"http:///models", NOWHERE),
    (b"://models", NOWHERE),
    (b"//", NOWHERE),
    (b"/ /models", UNREADABLE),
    (b"/models /predictions/tiny", UNREADABLE),
    (b"/\tmodels", UNREADABLE),
    (b"/models\rx", UNREADABLE),
    (b"/models\nx: y", ANOTHER_VERSION),
    (b"/" + b"a" * 70_000, frozenset({400, 431})),
    (b"/" + b"../" * 1500 + b"models", NOWHERE),
    (b"/" + b"%2e%2e/" * 800 + b"models", NOWHERE),
    (b"/predictions/tiny/%", NOWHERE),
    (b"/predictions/tiny/%zz", NOWHERE),
    (b"/predictions/\xf0\x9f\x99\x82", NOWHERE),
)

FIRST_LINES: tuple[tuple[bytes, frozenset[int]], ...] = (
    (b"post /predictions/tiny HTTP/1.1", frozenset({400, 405})),
    (b"get /models HTTP/1.1", NOWHERE),
    (b"BREW /predictions/tiny HTTP/1.1", frozenset({400, 405})),
    (b"TRACE /predictions/tiny HTTP/1.1", frozenset({400, 405})),
    (b"PRI /predictions/tiny HTTP/1.1", frozenset({400, 405})),
    (b"CONNECT <management> HTTP/1.1", frozenset({400, 401, 404})),
    (b"CONNECT /models HTTP/1.1", frozenset({400, 401, 404})),
    (b"OPTIONS * HTTP/1.1", NOWHERE),
    (b"HEAD /models HTTP/1.1", NOWHERE),
    (b"HEAD /predictions/tiny HTTP/1.1", frozenset({405})),
    (b"P\x00ST /predictions/tiny HTTP/1.1", UNREADABLE),
    (b"P\xd6ST /predictions/tiny HTTP/1.1", UNREADABLE),
    (b"PO ST /predictions/tiny HTTP/1.1", UNREADABLE),
    (b"POST:/predictions/tiny HTTP/1.1", UNREADABLE),
    (b"A" * 9000 + b" /models HTTP/1.1", frozenset({400, 431})),
    (b"A" * 70_000 + b" /models HTTP/1.1", frozenset({400, 431})),
    (b" GET /models HTTP/1.1", UNREADABLE),
    (b"\tGET /models HTTP/1.1", UNREADABLE),
    (b"GET\t/models\tHTTP/1.1", NOWHERE),
    (b"GET  /models HTTP/1.1", NOWHERE),
    (b"GET /models  HTTP/1.1", NOWHERE),
    (b"GET /models HTTP/1.1 ", NOWHERE),
    (b"GET /models HTTP/1.1 HTTP/1.1", UNREADABLE),
    (b"GET /models HTTP/1.0", ANOTHER_VERSION),
    (b"POST /predictions/tiny HTTP/1.0", ANOTHER_VERSION),
    (b"GET /models HTTP/0.9", ANOTHER_VERSION),
    (b"GET /models HTTP/1.10", ANOTHER_VERSION),
    (b"GET /models HTTP/2.0", ANOTHER_VERSION),
    (b"GET /models HTTP/3", ANOTHER_VERSION),
    (b"GET /models HTTP/-1.1", ANOTHER_VERSION),
    (b"GET /models http/1.1", ANOTHER_VERSION),
    (b"GET /models HTTP/1,1", ANOTHER_VERSION),
    (b"GET /models ICY/1.1", ANOTHER_VERSION),
    (b"GET /models", ANOTHER_VERSION),
    (b"/models", ANOTHER_VERSION),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", UNREADABLE),
    (b"HTTP/1.1 200 OK", UNREADABLE),
)

#: Lines that leave a body's length open; <length> is the length that it has.
UNCLEAR_LENGTHS: tuple[tuple[bytes, ...], ...] = (
    (b"Content-Length: <length>", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: <length>"),
    (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    (b"Content-Length: 5", b"transfer-encoding:chunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding: identity"),
    (b"Content-Length: <length>", b"Transfer-Encoding: \tchunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding: xchunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding : chunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding\t: chunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding:\r\n chunked"),
    (b"Content-Length: <length>", b"X: y\nTransfer-Encoding: chunked"),
    (b"Content-Length: <length>", b"Transfer_Encoding: chunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding\x00: chunked"),
    (b"Content-Length: <length>", b"Transfer-Encoding: chunked\x00"),
    (b"Content-Length: <length>", b"\x0bTransfer-Encoding: chunked"),
    (b"Content-Length: <length>", b" Transfer-Encoding: chunked"),
    (b"Content-Length: <length>", b"Content-Length: 0"),
    (b"Content-Length: 0", b"Content-Length: <length>"),
    (b"Content-Length: <length>", b"Content_Length: 0"),
    (b"Content-Length: <length>", b"content-length : 0"),
    (b"Content-Length: 0, <length>",),
    (b"Content-Length: <length>, 0",),
    (b"Content-Length: -1",),
    (b"Content-Length: +<length>",),
    (b"Content-Length: 0x20",),
    (b"Content-Length: 1e1",),
    (b"Content-Length: 1_0",),
    (b"Content-Length: 5.0",),
    (b"Content-Length: 5 5",),
    (b"Content-Length: 5;a",),
    (b"Content-Length: '5'",),
    (b"Content-Length: \xef\xbc\x95",),
    (b"Content-Length: 5\x00",),
    (b"Content-Length: \x0b5",),
    (b"Content-Length: 5\r\n 0",),
    (b"Content-Length: 18446744073709551616",),
    (b"Content-Length: 18446744073709551621",),
    (b"Content-Length: 99999999999999999999999999999999",),
    (b"Content-Length:",),
    (b"Content-Length",),
)

UNCLEAR_ENCODINGS = (
    b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding: identity\r\n"
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: 'chunked'", b"Transfer-Encoding: chun ked", b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: \x0cchunked", b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: ", b"Transfer-Encoding : chunked", b"Transfer-Encoding: cow",
    b"Transfer-Encoding: \xffchunked",
)  # fmt: skip

#: Lines that the gateway reads as Transfer-Encoding: chunked, and may: a folded one, and one that ends with a bare LF.
CLEAR_ENCODINGS = (
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding:\tchunked\t",
    b"Transfer-Encoding:\r\n chunked", b"TE: chunked\nTransfer-Encoding: chunked",
)  # fmt: skip

#: Lines behind a right Content-Length that name no second length: a bare CR ends no line, and is dropped.
CLEAR_LENGTHS = (
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\rContent-Length: 0",
    b"X-Content-Length: 0",
    b"TE: chunked",
)

#: Chunked bodies that break off into something else.
BAD_CHUNKS = (
    b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n0\r\n\r\n", b"+2\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n",
    b"2\n{}\n0\n\n", b"2\r{}\r0\r\r", b"2\r\n{}x\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n",
    b" 2\r\n{}\r\n0\r\n\r\n", b"\r\n2\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffff1\r\n{}\r\n0\r\n\r\n",
    b"10000000000000000\r\n{}\r\n0\r\n\r\n", b"10000000000000002\r\n{}\r\n0\r\n\r\n", b";a=b\r\n{}\r\n0\r\n\r\n",
    b"2;a\nb\r\n{}\r\n0\r\n\r\n", b"2\x00\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n0\r\nno header\r\n\r\n",
)  # fmt: skip

#: Headers that name the gateway's own matters, or another place; each is forgotten, refused, or means nothing.
#: <management> and <listener> are host and port.
HEADERS = (
    b"Host: <management>", b"Host: <listener>", b"Host:", b"Host: a b", b"Host: a/models", b"Host: x@<management>",
    b":authority: <listener>", b":path: /models", b":method: GET", b":scheme: http", b"X-Forwarded-Host: <management>",
    b"X-Forwarded-For: 127.0.0.1, <listener>", b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 8081",
    b"X-Forwarded-Path: /models", b"Forwarded: for=127.0.0.1;host=<management>", b"X-Original-URL: /models",
    b"X-Rewrite-URL: /models", b"X-HTTP-Method-Override: DELETE", b"X-HTTP-Method: PUT", b"X-Method-Override: GET",
    b"x-envoy-original-path: /models", b"x-envoy-original-dst-host: <listener>",
    b"x-envoy-decorator-operation: attacker",
    b"x-envoy-upstream-alt-stat-name: attacker", b"x-envoy-max-retries: 1000", b"x-envoy-retry-on: 5xx,retriable-4xx",
    b"x-envoy-retriable-status-codes: 200,404,422", b"x-envoy-upstream-rq-timeout-ms: 1",
    b"x-envoy-upstream-rq-per-try-timeout-ms: 1", b"x-envoy-upstream-rq-timeout-alt-response: 1",
    b"x-envoy-hedge-on-per-try-timeout: true", b"x-envoy-expected-rq-timeout-ms: 1", b"x-envoy-internal: true",
    b"x-envoy-external-address: 127.0.0.1", b"x-envoy-force-trace: true", b"x-envoy-attempt-count: 9",
    b"x-envoy-degraded: true", b"x-envoy-immediate-health-check-fail: true", b"x-envoy-downstream-service-cluster: a",
    b"x-envoy-peer-metadata-id: a", b"x-envoy-livenessfilter: a", b"grpc-timeout: 1n", b"x-b3-traceid: attacker",
    b"x-tsctl-client: attacker", b"x-tsctl-track: canary", b"x-tsctl-weight: 1", b"x-tsctl-shadow: 1",
    b"X-TSCTL-Retry: died", b"x-tsctl-anything: attacker", b"x-model-version: 9.9", b"Authorization: Bearer attacker",
    b"Authorization: Basic YTpi", b"Cookie: a=b; user=attacker", b"x-request-id: \x22,\x22client\x22:\x22attacker",
    b"x-request-id: \xff\xfe\\", b"x-request-id: a\tb", b"x-request-id:", b"x-request-deadline-ms: nan",
    b"x-request-deadline-ms: 0x10", b"x-request-deadline-ms: 1e400", b"x-request-deadline-ms:",
    b"Connection: x-api-key", b"Connection: authorization", b"Connection: content-length",
    b"Connection: x-tsctl-client",
    b"Connection: keep-alive, host", b"Connection: \x22", b"Keep-Alive: timeout=99999", b"Proxy-Connection: close",
    b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13", b"Upgrade: TLS/1.0", b"Expect: 100-continue", b"Expect: 200-ok", b"TE: trailers",
    b"Trailer: x-tsctl-client", b"Max-Forwards: 0", b"Range: bytes=0-1", b"Accept-Encoding: gzip;q=1, *;q=0",
    b"Content-Type: application/grpc", b"Content-Type: multipart/form-data; boundary=a", b"Content-Encoding: gzip",
    b"bare line", b": nameless", b"space : before", b"under_score: 1", b"X: folded\r\n line", b"X: a\nY: b",
    b"X: a\rY: b", b"X\x00: a", b"X: a\x00b", b"X\xe9: a", b"X: \xe9\x80\x81", b"X(): a", b"X: " + b"a" * 6500,
    b"X: " + b"a" * 7500,
    b"X" * 9000 + b": a", b"X: " + b"a" * 70_000, b"\r\n".join(b"X-%d: a" % number for number in range(90)),
    b"\r\n".join(b"X-%d: a" % number for number in range(120)), b"X:" + b"\t" * 3000,
)  # fmt: skip
