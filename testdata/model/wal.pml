/*
 * WAL: the hand-over between the journal, which shows what is visible, and the write-ahead log, which tells of an event
 * before it is visible.
 *
 * What is modelled. One topology with N events, a server that streams them from the WAL, and a feed that is attached at
 * any moment, also between the moment at which an event is streamed and the one at which it becomes visible. The stream
 * may break KILLS times and is opened anew. There is no heartbeat: what only it would bring counts as lost. A read of
 * the journal throws a feed away that is ahead of its head and not in doubt; that must not happen to a right one.
 *
 * The server's rules ("in doubt": streamed, and not yet known to be visible):
 *   - a streamed event is first put in doubt (the newest of its topology), then appended to the feed, if there is one;
 *   - an attachment is in the server's map before its catch-up begins;
 *   - while anything is in doubt snapshots are taken; an event leaves when a snapshot that was taken in a later round
 *     than it was streamed shows its transaction, and its feed, if it is behind, is then read from the journal;
 *   - a feed may be ahead of its head by what is in doubt: ask for that before the database is asked;
 *   - when a stream has been opened, the transactions that run are remembered, then every feed is read from the
 *     journal; when one of those transactions has ended, every feed is compared with its head.
 *
 * What PostgreSQL does, and where it says so (src/backend):
 *
 *  1. A commit is flushed, then waits for a synchronous standby, however long that takes, and only then becomes visible
 *     and gives up its row locks: access/transam/xact.c, RecordTransactionCommit (XLogFlush, SyncRepWaitForLSN) comes
 *     before ProcArrayEndTransaction in CommitTransaction; replication/syncrep.c, SyncRepWaitForLSN.
 *  2. A logical walsender sends what is flushed, and does not wait for a synchronous standby unless that is a slot of
 *     synchronized_standby_slots: replication/walsender.c, WalSndWaitForWal, XLogSendLogical. Commits come in the order
 *     of their records.
 *  3. A slot begins at the record at which it became consistent; of commits before it nothing is sent: replication/
 *     logical/snapbuild.c, SnapBuildProcessRunningXacts, SnapBuildXactNeedsSkip. It waits for transactions that ran
 *     when it began (SnapBuildWaitSnapshot), but one that began later can be flushed before that record, and still be
 *     invisible after it.
 *  4. A snapshot's xmax is the newest COMPLETED transaction plus 1: storage/ipc/procarray.c, GetSnapshotData. Running
 *     transactions at or above it are invisible, but pg_current_snapshot() does not name them. (Seen on 15: with 735
 *     running and nothing completed after it, 735:735: and no list.) So what runs can be listed only below a number
 *     that is known to be completed: a transaction of one's own that takes a number (pg_current_xact_id) and ends.
 *  5. In recovery a snapshot keeps running transactions where pg_current_snapshot() does not look (GetSnapshotData puts
 *     them in subxip; utils/adt/xid8funcs.c, pg_current_snapshot, copies xip): it seems to show all below xmax. What a
 *     standby streams it has replayed, and so shows: access/transam/xact.c, xact_redo_commit. A transaction that was
 *     prepared before a promotion is committed after it as on any primary (access/transam/twophase.c,
 *     RecordTransactionCommitPrepared: flush, SyncRepWaitForLSN, and then ProcArrayRemove in
 *     FinishPreparedTransaction).
 *
 * Switches (spin -D):
 *   IN_DOUBT  1  ours; 2  a feed is not compared with what has left; 0  a streamed event is forgotten at once
 *   ROUNDS    1  ours; 0  an event may leave by a snapshot of the round in which it was streamed
 *   RUNNING   what is remembered when a stream was opened:
 *             2  what runs below a number that the server has just taken: ours
 *             1  what pg_current_snapshot() lists
 *             0  nothing
 *   EARLY     1  the running transactions are listed before the stream is opened; 0 ours, after
 *   LATE      1  an attachment enters the map after its catch-up; 0 ours, before
 *   ASK       1  ours; 0  what is in doubt is asked for after the database
 *   PROMOTED  1  the server is a standby that is promoted during the run
 *   KILLS     how often the stream breaks
 *   OTHER     1  somebody else's transactions move xmax
 */
#ifndef N
#define N 2
#endif
#ifndef IN_DOUBT
#define IN_DOUBT 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef RUNNING
#define RUNNING 2
#endif
#ifndef EARLY
#define EARLY 0
#endif
#ifndef LATE
#define LATE 0
#endif
#ifndef ASK
#define ASK 1
#endif
#ifndef PROMOTED
#define PROMOTED 0
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef OTHER
#define OTHER 1
#endif
#define BIT(x) (1 << (x))

/* PostgreSQL. */
byte next_xid = 1;
byte completed;           /* the newest completed transaction */
byte running;             /* bits: transactions that have a number and are not visible */
byte xid_of[N+1];         /* of each event */
byte flushed;             /* events 1..flushed are in the WAL */
byte visible;             /* events 1..visible are what a snapshot shows */
bool recovery = PROMOTED;
#define LISTED (recovery -> 0 : (running & (BIT(completed+1) - 1)))      /* by pg_current_snapshot() */

/* The server. */
byte sent;                /* events 1..sent were streamed, or were before the stream */
bool attached;
byte last;                /* newest event of the feed */
bool reading;             /* a read of the journal is asked for */
bool in_doubt, fresh;     /* an event is in doubt; since this round */
byte doubt_seq, doubt_xid;
byte watched;             /* bits: transactions that ran when the stream was opened */
bool looked;              /* the newest snapshot has been judged, and nothing is new since */
byte v_next, v_running;   /* that snapshot */
byte kills = KILLS;

bool event_lost, wrong_reset;

#define ENDS(x) running = running & ~BIT(x); if :: x > completed -> completed = x :: else fi
#define COVERED(n) (in_doubt && (n) <= doubt_seq)

proctype Writer(byte k) {
  visible == k-1;                                   /* the row lock of the head */
  atomic { xid_of[k] = next_xid; running = running | BIT(next_xid); next_xid++ };
  if
  :: atomic { recovery -> visible = k; ENDS(xid_of[k]); flushed = k }      /* 5. replayed, then streamed */
  :: atomic { !recovery -> flushed = k };           /* 1. */
     atomic { visible = k; ENDS(xid_of[k]) }
  fi
}

/* A short transaction of somebody else, which moves xmax. */
proctype Other() {
  atomic { completed = next_xid; next_xid++ }
}

proctype Promotion() { recovery = 0 }

inline list_running() {
  atomic {
    if
    :: RUNNING == 2 && !recovery -> completed = next_xid; next_xid++; watched = LISTED
    :: RUNNING == 1 || (RUNNING == 2 && recovery) -> watched = LISTED
    :: RUNNING == 0
    fi;
    looked = 0
  }
}

proctype Stream() {
  byte k;
  if
  :: PROMOTED -> goto end                           /* it was opened before the run, on the standby */
  :: else
  fi;
opening:
  if
  :: EARLY -> list_running()
  :: else
  fi;
  sent = flushed;                                   /* 3. */
  if
  :: !EARLY -> list_running()
  :: else
  fi;
  if
  :: attached -> reading = 1
  :: else
  fi;
end:
  do
  :: atomic { sent < flushed ->                     /* 2. */
       sent++;
       k = sent;
       if
       :: IN_DOUBT -> in_doubt = 1; fresh = 1; looked = 0; doubt_seq = k; doubt_xid = xid_of[k]
       :: else
       fi };
     atomic {
       if
       :: attached && k == last+1 -> last = k
       :: attached && k > last+1 -> reading = 1
       :: else
       fi;
       k = 0 }
  :: atomic { kills > 0 -> kills--; goto opening }
  od
}

/* Takes snapshots while anything is in doubt. (Every 250 ms; one that shows nothing new since the last is left out.) */
proctype Visibility() {
  byte seen;
end:
  do
  :: atomic { (in_doubt || watched) && (!looked || v_next != completed+1 || v_running != LISTED) ->
       v_next = completed+1; v_running = LISTED; looked = 1 };
     atomic {                                       /* the snapshot is judged */
       if
       :: in_doubt && (!ROUNDS || !fresh) && doubt_xid < v_next && !(v_running & BIT(doubt_xid)) ->
          in_doubt = 0; doubt_xid = 0;
          if :: attached && last < doubt_seq && IN_DOUBT == 1 -> reading = 1 :: else fi;
          doubt_seq = 0
       :: else
       fi;
       if :: fresh -> fresh = 0; looked = 0 :: else fi;
       seen = watched & (BIT(v_next) - 1) & ~v_running;
       if
       :: seen ->
          watched = watched & ~seen;
          if :: attached -> reading = 1 :: else fi
       :: else
       fi;
       seen = 0 }
  od
}

/* Reads the journal from the feed's last event to the head. */
proctype Reader() {
  byte was, head;
  bool ahead;
end:
  do
  :: atomic { reading -> reading = 0; was = last; ahead = COVERED(was) };
     head = visible;
     atomic {
       if
       :: head < was && !(ASK -> ahead : COVERED(was)) -> wrong_reset = 1
       :: head > last -> last = head
       :: else
       fi;
       was = 0; head = 0; ahead = 0 }
  od
}

proctype Attach() {
  byte s;
  s = visible;                                      /* the light snapshot */
  if
  :: LATE ->
     s = visible;                                   /* the catch-up */
     atomic { attached = 1; last = s; s = 0 }
  :: else ->
     atomic { attached = 1; last = s; s = 0 };
     reading = 1                                    /* the catch-up */
  fi;
  timeout;
  event_lost = (last < N);
  assert(!event_lost);
  assert(!wrong_reset)
}

init {
  atomic {
    byte k = 1;
    do
    :: k <= N -> run Writer(k); k++
    :: else -> break
    od;
    if :: OTHER -> run Other() :: else fi;
    if :: PROMOTED -> run Promotion() :: else fi;
    run Stream(); run Visibility(); run Reader(); run Attach()
  }
}
