#!/bin/sh
# Injects an event by psql and waits until the server has streamed it; a test's "wait for". It reads the journal's head
# first, so that nothing is missed however fast the event is.
# TOKEN=… DATABASE_URL=… testdata/recipes/wait-for.sh http://127.0.0.1:8080 demo
set -eu
id=$(psql "$DATABASE_URL" -Atqc "SELECT id FROM topologies WHERE name = '$2'")
head=$(psql "$DATABASE_URL" -Atqc "SELECT seq FROM topology_heads WHERE topology_id = '$id'")
psql "$DATABASE_URL" -q -v ON_ERROR_STOP=1 -v topology="$2" -f testdata/inject/emit.sql >/dev/null
topostream tail "$id" --url "$1" --token "$TOKEN" --json --since "$head" \
    --until 'decky.service_added=web-1' --timeout 10s
