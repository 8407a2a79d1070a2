#!/bin/sh
# Runs once, when PostgreSQL makes its data: the roles, and the database, whose owner is no superuser either.
set -eu
password() { cat "/secrets/$1"; }
psql -v ON_ERROR_STOP=1 -v owner="$(password topostream)" -v server="$(password topostream_server)" \
    -v worker="$(password topostream_worker)" <<'SQL'
CREATE ROLE topostream LOGIN PASSWORD :'owner';
CREATE ROLE topostream_reader NOLOGIN;
CREATE ROLE topostream_injector NOLOGIN;
CREATE ROLE topostream_deployer NOLOGIN;
-- REPLICATION is for the bus wal: topostream bus wal
CREATE ROLE topostream_server LOGIN REPLICATION PASSWORD :'server';
CREATE ROLE topostream_worker LOGIN REPLICATION PASSWORD :'worker';
CREATE DATABASE topostream OWNER topostream;
SQL
