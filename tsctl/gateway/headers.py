"""Headers that only the gateway reads or writes; those that workers share with it are in `handlers.contract`."""

KEY_HEADER = "x-api-key"
#: A tester's `x-track: canary` reaches the canary whatever its weight.
TRACK_HEADER = "x-track"
#: A moment until which a client waits: milliseconds since 1970 by the gateway's clock. A node is sent the time left.
DEADLINE_HEADER = "x-request-deadline-ms"

#: Only the gateway may write headers that begin so; a client's are removed.
OWN_PREFIX = "x-tsctl-"
CLIENT_HEADER = "x-tsctl-client"
#: The track and the weight of the version that the route chose.
ASSIGNED_TRACK_HEADER, WEIGHT_HEADER = "x-tsctl-track", "x-tsctl-weight"
#: Marks requests beyond the rate of lines in the access log.
UNLOGGED_HEADER = "x-tsctl-unlogged"
#: Set by upstream.lua: who set the deadline of a request.
DEADLINE_BY_HEADER, CLIENT, ROUTE = "x-tsctl-deadline-by", "client", "route"
#: Marks the copies that a shadow gets.
SHADOW_HEADER = "x-tsctl-shadow"
