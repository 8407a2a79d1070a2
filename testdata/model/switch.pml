/*
 * SWITCH: changing the bus of a live system from `wal` to `notify` and back.
 *
 * What is modelled. The triggers read the setting in a snapshot: on `notify` they NOTIFY, on `wal` they leave the event
 * to those who read the write-ahead log. A server LISTENs all the time. It reads the WAL while the setting says `wal`,
 * and afterwards until the stream is drained. Two transactions write an event each, at READ COMMITTED or at REPEATABLE
 * READ, and may be prepared. There is no heartbeat: an event that neither NOTIFY nor the stream nor the read at a
 * change of the bus brings is lost.
 *
 * THE STREAM IS DRAINED WHEN, in this order:
 *   1. the server has read the new setting, and in the same statement X = pg_snapshot_xmax(pg_current_snapshot()). The
 *      switch is visible there, so its number is below X. A snapshot that does not show the switch has an xmin of at
 *      most the switch's number, and so below X;
 *   2. no backend of this database shows a backend_xmin below X in pg_stat_activity: whoever decides from now on has
 *      seen the switch. Who decided before has a number by now: a trigger runs inside a statement, which holds a
 *      snapshot at least as old as the one that the setting was read in until after the event was written;
 *   3. all transactions whose number is below Y have ended, where Y is a number that the server takes after 2. and ends
 *      at once (pg_current_xact_id): pg_snapshot_xmin(pg_current_snapshot()) >= Y. That counts prepared ones, too;
 *   4. every head was compared with its feed, by a read that began after 3. and after the last event of the stream.
 * A server that has no stream, because it has just started or because the bus went to `wal` and back between two of its
 * looks, goes the same way before it trusts NOTIFY; until then it polls, or opens a stream. So what it looks at is not
 * the value of the setting but which change made it (the settings row's xmin, or a counter): if that is another one
 * than the one it began to drain for, it begins anew.
 *
 * What PostgreSQL does, and where it says so (src/backend):
 *
 *  1. A snapshot's xmax is the newest completed transaction plus 1, its xmin the oldest running one or xmax; and it is
 *     published in the backend's xmin, if none was, under the lock that a commit takes to become visible: storage/ipc/
 *     procarray.c, GetSnapshotData, ProcArrayEndTransaction. So who looks at xmin after the switch was visible sees
 *     that of every snapshot that does not show it.
 *  2. xmin stays while a snapshot is registered or active: to the end of the transaction at REPEATABLE READ, of the
 *     statement (with its triggers) at READ COMMITTED: utils/time/snapmgr.c, SnapshotResetXmin; access/transam/xact.c.
 *  3. A transaction gets its number when it first writes, which may be long after its snapshot: access/transam/
 *     varsup.c, GetNewTransactionId. topology_emit reads the setting before it writes; a trigger on a table after.
 *  4. pg_stat_activity shows xid and xmin of each backend, one after another and not of one moment, to everybody (the
 *     kind of backend only to who may see more): utils/adt/pgstatfuncs.c, pg_stat_get_activity; storage/ipc/
 *     procarray.c, ProcNumberGetTransactionIds. A prepared transaction is no backend; pg_current_snapshot() counts it.
 *     Not in the model: a snapshot that is exported and imported between two such looks (SET TRANSACTION SNAPSHOT).
 *  5. A transaction that has NOTIFYed cannot be prepared: commands/async.c, AtPrepare_Notify.
 *
 * Switches (spin -D):
 *   DRAIN     5  as above: ours
 *             0  the stream ends when the setting was read
 *             1  it waits for what pg_current_snapshot() lists as running at that moment
 *             2  2. without 3.
 *             3  instead of 3. for the numbers that pg_stat_activity shows
 *             4  3. without 2.
 *             6  3. before 2.
 *             7  in 2. below the switch's own number, and not below X
 *   COMPARE   1  4., and the same after a stream was opened; 0  not
 *   COUNTED   1  as above; 0  the server looks at the setting's value, and drains if it has a stream
 *   SWITCHES  how often the bus is changed; it is `wal` first, unless START is 1
 *   WRITERS   1 or 2
 *   FRESH     1  the server starts at any moment; 0  it was there before, and had heard all
 */
#ifndef COUNTED
#define COUNTED 1
#endif
#ifndef FRESH
#define FRESH 0
#endif
#ifndef DRAIN
#define DRAIN 5
#endif
#ifndef COMPARE
#define COMPARE 1
#endif
#ifndef SWITCHES
#define SWITCHES 1
#endif
#ifndef START
#define START 0
#endif
#ifndef WRITERS
#define WRITERS 2
#endif
#define BIT(x) (1 << (x))

/* PostgreSQL. */
bool notify = START;      /* the setting, as a snapshot shows it: 1 is `notify` */
byte next_xid = 1, completed;
short running;            /* bits, by number */
byte the_switch;          /* the number of the newest one that is visible */
byte xmin[2], xid[2];     /* of the two backends, as pg_stat_activity shows them */
byte committed;           /* bits, by transaction: its event is visible */

/* The server. */
bool streaming = (!START && !FRESH);
byte in_wal;              /* bits: events that the stream will bring if it stays open */
byte got;                 /* bits: events that the feed has */

bool event_lost;

#define AGAIN (COUNTED -> the_switch != begun : !notify)     /* the drain must begin anew */
#define UNTIL(x) (BIT(x) - 1)                       /* all numbers below x */

inline oldest(x) {
  x = 1;
  do
  :: x <= completed && !(running & BIT(x)) -> x++
  :: else -> break
  od
}

inline take_number(x) { x = next_xid; running = running | BIT(next_xid); next_xid++ }

inline ended(x) {
  running = running & ~BIT(x);
  if :: x > completed -> completed = x :: else fi
}

proctype Switch() {
  byte n, w;
  do
  :: n < SWITCHES ->
     atomic { take_number(w) };
     atomic { ended(w); notify = !notify; the_switch = w; w = 0; n++ }
  :: else -> break
  od
}

proctype Writer(bit i) {
  bool repeatable, decision;
  byte number;
  atomic {                                          /* the snapshot of the statement, or of the transaction */
    oldest(xmin[i]);
    if :: repeatable = 1; decision = notify :: repeatable = 0 fi
  };
  if
  :: atomic { take_number(xid[i]) };
     if :: !repeatable -> decision = notify :: else fi
  :: if :: !repeatable -> decision = notify :: else fi;
     atomic { take_number(xid[i]) }
  fi;
  if
  :: !repeatable -> xmin[i] = 0                     /* the statement ends */
  :: else
  fi;
  number = xid[i];
  if
  :: atomic { !decision -> xid[i] = 0; xmin[i] = 0 }        /* PREPARE */
  :: true
  fi;
  atomic {                                          /* the commit */
    ended(number);
    committed = committed | BIT(i);
    if
    :: decision -> got = got | BIT(i)
    :: !decision && streaming -> in_wal = in_wal | BIT(i)
    :: else
    fi;
    xid[i] = 0; xmin[i] = 0; number = 0
  }
}

/* The stream brings what is in the WAL. */
proctype Stream() {
end:
  do
  :: atomic { streaming && in_wal -> got = got | in_wal; in_wal = 0 }
  od
}

inline compare() {
  if
  :: COMPARE -> got = got | committed
  :: else
  fi
}

/* 2.: of each backend in turn. The bound was read with the setting. */
inline await_snapshots() {
  xmin[0] == 0 || xmin[0] >= bound || AGAIN;
  xmin[1] == 0 || xmin[1] >= bound || AGAIN
}

/* 3. */
inline await_numbers() {
  atomic { fence = next_xid; completed = next_xid; next_xid++ };
  (running & UNTIL(fence)) == 0 || AGAIN
}

proctype Server() {
  byte bound, fence, begun, drained;
  short listed;
  if
  :: FRESH -> atomic { got = got | committed; drained = 255 }       /* it attaches */
  :: else
  fi;
end:
  do
  :: atomic { !notify && !streaming -> streaming = 1 };
     compare()
  :: atomic { notify && (COUNTED -> streaming || drained != the_switch : streaming) ->
       begun = the_switch; bound = completed+1; listed = running & UNTIL(completed+1) };
     if
     :: DRAIN == 0
     :: DRAIN == 1 -> (running & listed) == 0 || AGAIN
     :: DRAIN == 2 -> await_snapshots()
     :: DRAIN == 3 ->
        await_snapshots();
        atomic { listed = (xid[0] -> BIT(xid[0]) : 0) | (xid[1] -> BIT(xid[1]) : 0) };
        (running & listed) == 0 || AGAIN
     :: DRAIN == 4 -> await_numbers()
     :: DRAIN == 5 -> await_snapshots(); await_numbers()
     :: DRAIN == 6 -> await_numbers(); await_snapshots()
     :: DRAIN == 7 -> bound = the_switch; await_snapshots(); await_numbers()
     fi;
     if
     :: !AGAIN ->
        atomic { streaming = 0; in_wal = 0; drained = begun; bound = 0; fence = 0; listed = 0; begun = 0 };
        compare()
     :: AGAIN
     fi
  od
}

proctype Judge() {
  timeout;
  event_lost = (got != committed);
  assert(!event_lost)
}

init {
  atomic {
    run Switch();
    run Writer(0);
    if :: WRITERS == 2 -> run Writer(1) :: else fi;
    run Stream(); run Server(); run Judge()
  }
}
