#!/bin/sh
# An integration test under docker compose: bring up, inject by psql, wait for the event, assert. Change what is
# injected and what is awaited; `tail` ends with 4 when an event has not come in time, and the test with it.
set -eu
compose=${COMPOSE:-docker compose}
sql() { $compose exec -T postgres psql -U topostream -Atq -v ON_ERROR_STOP=1 -v topology=compose-test "$@"; }
server() { $compose exec -T serve /topostream "$@"; }

$compose up -d
for try in $(seq 60); do server health && break || sleep 1; done 2>/dev/null
server health

id=$(sql -c "INSERT INTO topologies (name) VALUES ('compose-test') RETURNING id")
sql -c "UPDATE topologies SET status = 'deploying' WHERE id = '$id'"
sql -c "UPDATE topologies SET status = 'active' WHERE id = '$id'"
head=$(sql -c "SELECT seq FROM topology_heads WHERE topology_id = '$id'")

sql <testdata/inject/mutation.sql # which asks for a LAN named lan-9: the worker applies it
event=$(server tail "$id" --token "$(server token --role viewer)" --json --since "$head" \
    --until 'mutation.applied=lan-9' --timeout 30s)

echo "$event" | grep -q '"op": *"add_lan"' || { echo "not what was asked for: $event" >&2; exit 1; }
[ "$(sql -c "SELECT count(*) FROM lans WHERE topology_id = '$id' AND name = 'lan-9'")" = 1 ]
echo "lan-9 is there, and its event was streamed: $event"
