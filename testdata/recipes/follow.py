"""TOKEN=… python3 follow.py http://127.0.0.1:8080 <topology id>: prints each event; resumes by itself (httpx)."""
import json, os, sys, time, httpx

def follow(url, topology, token):
    last = ""
    while True:
        headers = {"Authorization": "Bearer " + token, "Last-Event-ID": last}
        try:
            with httpx.stream("GET", f"{url}/api/v1/topologies/{topology}/events", headers=headers, timeout=45) as r:
                r.status_code < 500 and r.raise_for_status()  # 4xx is final, but for 429
                frame = {}
                for line in map(str.rstrip, r.iter_lines()):
                    name, _, value = line.partition(": ")
                    frame[name] = value
                    if line == "" and "data" in frame:
                        last = frame.get("id", last)
                        yield frame["event"], json.loads(frame["data"])
                    frame = frame if line else {}
        except httpx.TransportError:
            pass  # whoever resumes misses nothing
        time.sleep(1)

for event, data in follow(sys.argv[1], sys.argv[2], os.environ["TOKEN"]):
    print(event, json.dumps(data), flush=True)
