-- Spreads what has just been recorded over the last hour, and the list's last changes over a day.

SET session_replication_role = replica;

WITH spaced AS (
    SELECT topology_id, seq, sum(CASE WHEN seq % 23 < 17 THEN 6 ELSE 84 END)
               OVER (PARTITION BY topology_id ORDER BY seq DESC) + 40 AS ago
      FROM topology_events)
UPDATE topology_events e SET at = now() - ago * interval '1 second' + (e.seq * 137 % 1000) * interval '1 millisecond'
  FROM spaced s WHERE s.topology_id = e.topology_id AND s.seq = e.seq;

UPDATE mutations m SET requested_at = asked.at, applied_at = asked.at + '40 ms', finished_at = asked.at + '60 ms'
  FROM topology_events asked
 WHERE asked.type = 'mutation.enqueued' AND asked.payload ->> 'mutation_id' = m.id::text;

UPDATE topologies SET
    updated_at = now() - ago, status_changed_at = now() - greatest(ago, '3 hours')
  FROM (VALUES ('airport-west', '12 minutes'::interval), ('bank-branch-7', '4 minutes'), ('campus-east', '6 days'),
    ('grid-south', '2 hours'), ('harbour-north', '40 seconds'), ('hospital-imaging', '3 days'),
    ('lab-honeynet', '90 seconds'), ('metro-depot', '26 hours'), ('retail-pos', '45 minutes'),
    ('warehouse-12', '8 seconds')) AS last (of, ago) WHERE name = of;
