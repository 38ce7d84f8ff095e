"""Headers that only the gateway reads or writes; those that workers share with it are in `handlers.contract`."""

KEY_HEADER = "x-api-key"
#: A tester's `x-track: canary` reaches the canary whatever its weight.
TRACK_HEADER = "x-track"
#: A moment until which a client waits: milliseconds since 1970 by the gateway's clock. A node is sent the time left.
DEADLINE_HEADER = "x-request-deadline-ms"

#: The engine that answered, where the deployment asks for it.
ENGINE_HEADER = "x-engine"

#: Only the gateway may write headers that begin so; a client's are removed.
OWN_PREFIX = "x-tsctl-"
#: The version that the route chose, and its weight; how it chose, and its track, are in `handlers.contract`, because
#: workers read these too. The log and the counters read all: a header costs Envoy a fifth of what a value in the
#: metadata of a route or a cluster costs.
VERSION_HEADER = "x-tsctl-version"
WEIGHT_HEADER = "x-tsctl-weight"
#: Marks requests beyond the rate of lines in the access log.
UNLOGGED_HEADER = "x-tsctl-unlogged"
#: Set in the cluster: who set the deadline of a request.
DEADLINE_BY_HEADER, CLIENT, ROUTE = "x-tsctl-deadline-by", "client", "route"
#: Marks requests over gRPC that have become one of REST, and those that are on their way to a listener inside Envoy,
#: which logs and counts them.
GRPC_HEADER, INSIDE_HEADER = "x-tsctl-grpc", "x-tsctl-inside"
#: The media type of the body that such a request gets.
MEDIA_HEADER = "x-tsctl-media"
#: Of the answer to such a request, until it has become gRPC's status.
STATUS_HEADER = "x-tsctl-status"
#: Marks requests to models whose answers have tokens: other lines of the log and other counters tell of them.
METERED_HEADER = "x-tsctl-metered"
#: Of requests to the listener of budgets in tokens: the client whose budget is looked at, or who pays, and how many.
CHECKED_HEADER, CHARGED_HEADER, CHARGE_HEADER = "x-tsctl-checked", "x-tsctl-charged", "x-tsctl-charge"
