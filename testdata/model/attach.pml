/*
 * ATTACH: a snapshot of a topology and every event after it, over LISTEN/NOTIFY.
 *
 * What is modelled. One topology with N events, one backend of PostgreSQL that carries the LISTEN connection of one
 * server, and that server's feed. Each event is a writer's transaction. The connection may die KILLS times at any
 * point; the server then connects again, LISTENs again and reads what it missed. The model asks one thing: is there a
 * run at whose end, with everything quiet, the feed has not got every event after its snapshot? No heartbeat is in the
 * model: what only the heartbeat would bring counts as lost.
 *
 * What PostgreSQL does, and where it says so (src/backend of versions 15 to 19):
 *
 *  1. Writers of one topology go one after another: the head's row lock is held until the transaction has become
 *     visible. access/transam/xact.c, CommitTransaction: ProcArrayEndTransaction (visible) comes before
 *     ResourceOwnerRelease(RESOURCE_RELEASE_LOCKS), and that before AtCommit_Notify. So the next writer may have
 *     queued its notification, and even be visible, before this one has signalled anybody.
 *  2. A notification enters the queue before its transaction is visible, in commit order: commands/async.c,
 *     PreCommit_Notify, under a lock of the whole cluster ("database 0") that is held until after the commit.
 *  3. After the commit the writer signals: AtCommit_Notify, SignalBackends. Up to 18 it signals every backend of the
 *     database that listens to anything and is behind the queue's head. From 19 on it signals those who listen to this
 *     channel, and moves others, if they stand where this writer began to write, past what it wrote ("direct advance").
 *  4. A backend reads the queue when it is signalled and idle, never inside a transaction: ProcessNotifyInterrupt. It
 *     reads up to the head that it found when it began, and stops at the first transaction that its snapshot does not
 *     show: asyncQueueReadAllNotifications, asyncQueueProcessPageEntries. It passes on what it listens to at that
 *     moment, and drops the rest for good.
 *  5. LISTEN works during COMMIT. PreCommit_Notify registers the backend, if it listens to nothing yet, at the queue's
 *     tail, and reads from there past all that is visible, while it listens to nothing (up to 18: Exec_ListenPreCommit,
 *     from 19: BecomeRegisteredListener). From AtCommit_Notify on it listens (Exec_ListenCommit;
 *     ApplyPendingListenActions).
 *  6. The tail moves up to the slowest registered backend: asyncQueueAdvanceTail. If none is registered in the whole
 *     cluster it moves up to the head, PAST NOTIFICATIONS WHOSE TRANSACTIONS HAVE NOT COMMITTED. Whoever registers then
 *     never sees them, although the comment in asyncQueueReadAllNotifications says otherwise. Any call of
 *     pg_notification_queue_usage() moves it, and our triggers call that. (Seen on PostgreSQL 15: a writer that waits
 *     for a synchronous standby, one call of pg_notification_queue_usage(), LISTEN, a read of the journal, and then the
 *     writer's commit: the notification never comes.)
 *
 * Switches (spin -D):
 *   PROTOCOL   1  snapshot, then LISTEN, in two transactions
 *              2  BEGIN; LISTEN; snapshot; COMMIT
 *              3  the same, then one read of the journal, begun after COMMIT returned: ours
 *   LISTENING  1  the connection listens to another channel before; 0  it is fresh
 *   PG         18 (stands for 14 to 18) or 19
 *   KILLS      how often the connection may die
 *   TAIL       1  the queue's tail moves whenever PostgreSQL lets it; 0  nobody asks for it to be moved
 *   PROBE      1  after its first LISTEN the connection waits for a NOTIFY of the server's own, and does not read the
 *                 journal before that has come; it keeps that first channel. The NOTIFY takes the lock of 2., so who
 *                 had queued before has become visible
 *              2  as 1, but that first channel is given up before others are listened to
 *   ASYNC      1  notifications are taken while the read of the journal is under way, and one that is not last+1 has
 *                 the journal read again; 0  they wait for the read, and one that is not last+1 counts as lost
 */
#ifndef N
#define N 3
#endif
#ifndef PROTOCOL
#define PROTOCOL 3
#endif
#ifndef LISTENING
#define LISTENING 0
#endif
#ifndef PG
#define PG 18
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef TAIL
#define TAIL 0
#endif
#ifndef PROBE
#define PROBE 0
#endif
#ifndef ASYNC
#define ASYNC 0
#endif

byte head;            /* of the queue: notifications 1..head are in it */
byte tail;            /* of the queue */
byte visible;         /* events 1..visible are what a snapshot shows */
byte signalled;       /* writers that have signalled */

/* The backend of the LISTEN connection. */
bool registered;      /* it is in the array of listeners */
bool listening;       /* to our channel, by a committed LISTEN */
bool wake;            /* it was signalled and has not begun to read since */
bool advancing;       /* it is reading the queue */
byte pos;             /* it has read the queue up to here */

/* The server. */
bool attached;        /* it has its snapshot, and LISTEN is committed: the feed is there */
byte last;            /* newest event of the feed */
bool arrived[N+1];    /* notifications that the server has not handled yet */
bool reading;         /* ASYNC: a read of the journal is asked for */
bool under_way;       /* ASYNC: and one is under way */
byte kills = KILLS;

bool event_lost;

/* A writer's commit. */
proctype Writer(byte k) {
  visible == k-1;                                   /* 1. the row lock of the head */
  head = k;                                         /* 2. */
  visible = k;
  atomic {                                          /* 3. under NotifyQueueLock */
    if
    :: registered && PG == 18 && pos != head -> wake = 1
    :: registered && PG == 19 ->
       if
       :: listening && pos != head -> wake = 1
       :: else
       fi;
       if
       :: !wake && !advancing && pos == k-1 -> pos = k      /* direct advance */
       :: !wake && !advancing && pos < k-1 -> wake = 1      /* far behind: four pages, in PostgreSQL */
       :: !wake && !advancing && pos < k-1
       :: else
       fi
    :: else
    fi;
    signalled++
  }
}

/* 6. Somebody asks pg_notification_queue_usage() while no backend is registered. */
proctype Tail() {
end:
  do
  :: atomic { !registered && tail < head -> tail = head }
  od
}

/* 4. The backend reads the queue. */
inline read_queue() {
  atomic { advancing = 1; wake = 0; stop = head };
  shown = visible;
  atomic {
    do
    :: pos < stop && pos < shown ->
       pos++;
       if :: listening -> arrived[pos] = 1 :: else fi
    :: else -> break
    od;
    advancing = 0; stop = 0; shown = 0
  }
}

inline read_if_signalled() {
  if
  :: wake -> read_queue()
  :: else
  fi
}

/* 5. The first LISTEN of a connection, before its commit. */
inline register() {
  atomic { registered = 1; wake = 0; pos = tail };
  read_queue()
}

/* The server's own NOTIFY has come back: a moment at which nobody held the lock of the queue. */
inline probe() {
  if
  :: PROBE -> head == visible
  :: else
  fi
}

/* The connection dies: what had arrived and was not handled dies with it. */
inline may_die() {
  if
  :: atomic { kills > 0 -> kills--; goto connect }
  :: true
  fi
}

/* The server handles one notification. */
inline handle(m) {
  arrived[m] = 0;
  if
  :: m <= last
  :: m == last+1 -> last = m
  :: m > last+1 && ASYNC -> reading = 1
  :: m > last+1 && !ASYNC -> event_lost = 1; last = m
  fi
}

inline catch_up() {
  if
  :: ASYNC -> reading = 1
  :: else -> atomic { if :: visible > last -> last = visible :: else fi }
  fi
}

proctype Connection() {
  byte stop, shown, s;
connect:
  atomic {
    registered = 0; listening = 0; wake = 0; advancing = 0; pos = 0; stop = 0; shown = 0; s = 0;
    arrived[1] = 0; arrived[2] = 0; arrived[3] = 0
  };
  if
  :: LISTENING ->
     register();
     probe();
     if
     :: PROBE == 2 -> registered = 0; register()
     :: else
     fi;
     read_if_signalled()
  :: else
  fi;
  may_die();
  if
  :: PROTOCOL == 1 && !attached -> s = visible; read_if_signalled()  /* idle between two transactions */
  :: PROTOCOL != 1 && !attached -> s = visible
  :: attached
  fi;
  if
  :: !registered -> register()
  :: else
  fi;
  may_die();
  listening = 1;
  may_die();                                        /* COMMIT did not return */
  atomic {
    if
    :: !attached -> attached = 1; last = s
    :: else
    fi;
    s = 0
  };
  if
  :: PROTOCOL == 3 && !LISTENING -> probe(); catch_up()
  :: PROTOCOL == 3 && LISTENING -> catch_up()
  :: else
  fi;
  do
  :: wake -> read_queue()
  :: atomic { arrived[1] -> handle(1) }
  :: atomic { arrived[2] && !arrived[1] -> handle(2) }
  :: atomic { arrived[3] && !arrived[1] && !arrived[2] -> handle(3) }
  :: atomic { kills > 0 -> kills--; goto connect }
  :: signalled == N && !wake && !arrived[1] && !arrived[2] && !arrived[3] && !reading && !under_way -> break
  od;
  if
  :: last < N -> event_lost = 1
  :: else
  fi;
  assert(!event_lost)
}

/* ASYNC: the journal, read on the pool. What is asked for while a read is under way is read by the next one. */
proctype Reader() {
  byte shown;
end:
  do
  :: atomic { reading -> reading = 0; under_way = 1 };
     shown = visible;                               /* the read's snapshot */
     atomic { if :: shown > last -> last = shown :: else fi; under_way = 0; shown = 0 }
  od
}

init {
  atomic {
    byte k = 1;
    do
    :: k <= N -> run Writer(k); k++
    :: else -> break
    od;
    if :: TAIL -> run Tail() :: else fi;
    if :: ASYNC -> run Reader() :: else fi;
    run Connection()
  }
}
