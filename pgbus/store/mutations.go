package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"topostream/stream"
)

// mutations makes one row after another, so that it stops where there is no room: a row is as large as its payload, and
// only the row itself says how large that is.
const mutations = `
WITH RECURSIVE page AS (
     SELECT 1 AS n, m.position, m.json, octet_length(m.json)::bigint AS bytes
       FROM (SELECT m.position, topology_mutation_json(m.*) AS json FROM mutations m
              WHERE m.topology_id = $2::text::uuid AND m.state = ANY ($3::text[])
                AND ($4::bigint = 0 OR m.position < $4)
              ORDER BY m.position DESC LIMIT 1) m
      UNION ALL
     SELECT p.n + 1, m.position, m.json, p.bytes + 1 + octet_length(m.json)
       FROM page p CROSS JOIN LATERAL (
            SELECT m.position, topology_mutation_json(m.*) AS json FROM mutations m
             WHERE m.topology_id = $2::text::uuid AND m.state = ANY ($3::text[]) AND m.position < p.position
             ORDER BY m.position DESC LIMIT 1) m
      WHERE p.n < $5 AND p.bytes < $6),
     fits AS (
     SELECT coalesce(string_agg(json, ',' ORDER BY n), '') AS rows, min(position) AS last
       FROM page WHERE n = 1 OR bytes <= $6),
     doc AS MATERIALIZED (
     SELECT convert_to('[' || f.rows || ']',
                CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END) AS body,
            CASE WHEN EXISTS (
                 SELECT FROM mutations m
                  WHERE m.topology_id = t.id AND m.state = ANY ($3::text[]) AND m.position < f.last)
                 THEN f.last END AS next
       FROM topologies t CROSS JOIN fits f WHERE t.id = $2::text::uuid)`

// Mutations implements stream.Store.
func (s *Store) Mutations(
	ctx context.Context, id stream.TopologyID, q stream.MutationQuery, most int64,
) (page []byte, next int64, _ error) {
	const query = mutations + parts
	if len(q.States) == 0 {
		q.States = stream.MutationStates()
	}
	err := s.read(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		page, next, err = readBody(ctx, tx, query, most, string(id), q.States, q.Before, q.Limit, q.Bytes)
		if err != nil {
			return fmt.Errorf("list mutations: %w", err)
		}
		return nil
	})
	return page, next, err
}
