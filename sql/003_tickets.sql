-- One-time tickets, each of which opens one stream.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (3, 'tickets', true);

-- Unlogged: whatever synchronous_commit says, no crash brings back a ticket that was used. It takes those that were not, too, which live for a minute.
CREATE UNLOGGED TABLE {{.schema}}.sse_tickets (
    hash          bytea PRIMARY KEY,       -- SHA-256 of the ticket, which is nowhere
    subject       bytea NOT NULL,          -- of the token that minted it, as UTF-8: whatever the database's encoding has no character for
    role          text NOT NULL,
    topologies    uuid[],                  -- null: all
    token_expires timestamptz,             -- when the token does; null: never
    expires       timestamptz NOT NULL     -- no later than the token
);
CREATE INDEX sse_tickets_expires ON {{.schema}}.sse_tickets (expires);
CREATE INDEX sse_tickets_subject ON {{.schema}}.sse_tickets USING hash (subject);   -- which takes a subject of any length

---- create above / drop below ----

DROP TABLE {{.schema}}.sse_tickets;
DELETE FROM {{.schema}}.topology_migrations WHERE version = 3;
