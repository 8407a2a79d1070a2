-- Edits and events of an ordinary hour, in their order; the worker applies the edits.

CREATE TEMPORARY TABLE harbour AS SELECT id FROM topologies WHERE name = 'harbour-north';

SELECT count(topology_emit(id, (ARRAY['decky.seen', 'probe', 'login.failed', 'probe'])[1 + i % 4],
    jsonb_build_object('decky', (ARRAY['web-1', 'plc-4', 'hmi-1', 'mx-1', 'jump-1'])[1 + i % 5],
        'from', '198.51.100.' || 20 + i * 7 % 200, 'port', (ARRAY[443, 102, 22, 25, 3389])[1 + i % 5])))
  FROM harbour, generate_series(1, 96) i;

INSERT INTO mutations (topology_id, op, payload, requested_by)
SELECT id, op, payload::jsonb, by
  FROM harbour, (VALUES
    ('update_decky', '{"decky": "web-1", "services": ["http", "https", "ssh"]}', 'anna'),
    ('add_decky', '{"name": "plc-5", "lan": "plant-floor", "services": ["modbus"], "x": 168, "y": 172}', 'anna'),
    ('remove_lan', '{"name": "plant-floor"}', 'ben'),
    ('update_decky', '{"decky": "hist-1", "patch": {"banner": "PI Server 2018"}}', 'anna'),
    ('attach_decky', '{"decky": "lic-1", "lan": "cctv"}', 'ben'),
    ('detach_decky', '{"decky": "lic-1", "lan": "cctv"}', 'ben'),
    ('update_decky', '{"decky": "plc-3", "services": ["modbus", "s7", "snmp"]}', 'carla')) AS m (op, payload, by);
