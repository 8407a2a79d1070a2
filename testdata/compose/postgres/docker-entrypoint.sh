#!/usr/bin/env bash
# Stands in for the official image's entrypoint: makes the database cluster if PGDATA is empty, runs
# /docker-entrypoint-initdb.d/*.sh and *.sql in the order of their names, and becomes PostgreSQL. Other commands are run
# as they are. Not here: *.sql.gz and the like, POSTGRES_INITDB_ARGS, other *_FILE than the password's, trust.
set -euo pipefail

if [ "${1#-}" != "${1:-}" ]; then set -- postgres "$@"; fi
if [ "${1:-}" != postgres ]; then exec "$@"; fi
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres:postgres {} +
    exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/var/lib/postgresql "$0" "$@"
fi

user="${POSTGRES_USER:-postgres}"
database="${POSTGRES_DB:-$user}"

initialize() {
    initdb -D "$PGDATA" -U "$user" --auth-local=trust --auth-host=scram-sha-256 \
        --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    # On the socket alone: nobody outside meets a server that goes away again.
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
    export PGHOST=/var/run/postgresql PGUSER="$user"
    if [ "$database" != postgres ]; then
        psql -X -v ON_ERROR_STOP=1 -d postgres -v database="$database" <<<'CREATE DATABASE :"database";'
    fi
    for script in /docker-entrypoint-initdb.d/*; do
        case "$script" in
        *.sh) echo "running $script" && if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
        *.sql) echo "running $script" && psql -X -v ON_ERROR_STOP=1 -d "$database" -f "$script" ;;
        esac
    done
    unset PGHOST PGUSER
    pg_ctl -D "$PGDATA" -m fast -w stop
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"; fi
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "POSTGRES_PASSWORD is not set" >&2
        exit 1
    fi
    initialize
fi
exec "$@"
