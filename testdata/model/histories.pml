/*
 * HISTORIES: a connection leads to another database than a moment ago, and numbers of one history must not meet numbers
 * of another.
 *
 * What is modelled. Two databases that were one: OLD (0) and NEW (1). OLD gets events that NEW does not have: the lost
 * history. NEW gets events of its own under the same numbers. A pooler leads a server's statements to OLD, then to NEW,
 * and may swap them between any two statements; with LIVES some statements still reach OLD afterwards, until it dies.
 * One topology, one client, and the server that it is connected to; the client may come back to another server, that
 * has seen nothing yet, with the number that it has.
 *
 * What is asked, in every run: the client never gets an event of NEW after one of the lost history without a snapshot
 * between (spliced), never anything of OLD after something of NEW (went_back), and it ends with exactly what NEW has.
 *
 * The rules:
 *   - a database remembers which one it is (system identifier, timeline, OID); if it finds that it is another, a raise
 *     is due: a new epoch and a new random `history`, in the settings alone;
 *   - each read returns the rows and, in the same statement, epoch, history and whether a raise is due. What differs
 *     from the feed's is not appended, and the feed is thrown away. An epoch lower than the highest that the server has
 *     seen, with no raise due, is an old primary: nothing is taken from it, and it is never raised. The same epoch with
 *     another history is raised;
 *   - a head enters the new epoch under its own lock, before a document or a resume (topology_raise); if a writer holds
 *     it, the client is told `unavailable` and tries again. A head below the settings' epoch is never handed out;
 *   - a writer takes head+1, whatever the epoch.
 *
 * What PostgreSQL does, and where it says so (src/backend):
 *
 *  1. A promotion begins a new timeline, whose number is the highest that the server finds plus 1: access/transam/
 *     xlogrecovery.c and timeline.c, findNewestTimeLine. Two standbys of one primary that are both promoted can so get
 *     the same one; all else that a database can be asked for they have in common, too.
 *  2. A promoted standby keeps its connections and its snapshots: access/transam/xlog.c, StartupXLOG ends recovery
 *     under running backends. In recovery nothing can be written, so no raise is due there.
 *  3. A row lock is held to the end of the transaction; a statement at READ COMMITTED reads settings and heads in one
 *     snapshot: storage/ipc/procarray.c, GetSnapshotData; access/heap/heapam.c, heap_lock_tuple.
 * Of the pooler: in transaction mode it gives each transaction to any server connection that it has, and a statement is
 * never split.
 *
 * Switches (spin -D):
 *   COPIES    0  a promotion: OLD is what it was, NEW was its standby; 1  both were promoted, and raise to the same
 *                epoch
 *   LIVES     1  statements may reach OLD after the swap, until it dies
 *   REPLICA   1  the pooler may lead to NEW while it is still a standby
 *   RESUMES   how often the client comes back to a server that has seen nothing
 *   IDENTITY  1  ours; 0  the identity is compared when a connection of the server opens
 *   SPLIT     1  the identity is read by one statement and the rows by the next; 0 ours
 *   HISTORY   1  ours; 0  epochs alone are compared
 *   SHORT     1  a head is read as the greater of its number and the epoch's first, and no head is ever lifted; 0 ours
 *   BELIEVE   1  a lower epoch is another history like any; 2  it is raised above the highest; 0 ours
 *   REFUSE    1  a lower epoch is an old primary, also if a raise is due there; 0 ours, one with a raise due is new
 *   STREAM    1  what a standby streams is appended without asking for its identity, over its promotion, too
 *   MEMORY    1  with that a resume is taken by the numbers in the feed's memory, without asking which history they are
 *                 of; 0 ours
 */
#ifndef REFUSE
#define REFUSE 0
#endif
#ifndef STREAM
#define STREAM 0
#endif
#ifndef COPIES
#define COPIES 0
#endif
#ifndef LIVES
#define LIVES 0
#endif
#ifndef REPLICA
#define REPLICA 0
#endif
#ifndef RESUMES
#define RESUMES 0
#endif
#ifndef IDENTITY
#define IDENTITY 1
#endif
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef HISTORY
#define HISTORY 1
#endif
#ifndef SHORT
#define SHORT 0
#endif
#ifndef BELIEVE
#define BELIEVE 0
#endif
#ifndef MEMORY
#define MEMORY 0
#endif
#ifndef EVENTS
#define EVENTS 2
#endif
#define OLD 0
#define NEW 1

/* The databases. */
byte epoch[2];            /* of the settings */
byte history[2];
bool due[2];              /* it is another database than it remembers */
byte head_epoch[2], head_n[2];
byte events[2];           /* how many events the topology has had, in this database's history */
bool locked;              /* the head of NEW, by a writer */
bool promoted;            /* NEW is no standby any more */

/* The pooler. */
bit route;
bool old_lives = 1;
#define REACHES(d) (route == (d) || (LIVES && old_lives && route == NEW))

/* The server. */
byte highest;             /* epoch that it has seen */
byte feed_epoch, feed_history;
bool feeding;

/* The client: its number, and what it is made of. */
byte has_epoch, has_n;
byte has_new;             /* events of NEW */
byte has_lost;            /* events of OLD */
bool seen_new;
bool resuming;
byte resumes = RESUMES;
byte raises = 2;          /* BELIEVE 2: how often, at most */
bool on_standby;          /* the server's stream of the WAL comes from NEW, which was a standby when it began */

bool spliced, went_back, ends_wrong;

#define HEAD_EPOCH(d) (SHORT && head_epoch[d] < epoch[d] -> epoch[d] : head_epoch[d])
#define HEAD_N(d) (SHORT && head_epoch[d] < epoch[d] -> 0 : head_n[d])
#define SAME(d) (epoch[d] == feed_epoch && !due[d] && (!HISTORY || history[d] == feed_history))
#define NEXT(d) (HEAD_EPOCH(d) == feed_epoch && HEAD_N(d) > has_n)
#define RIGHT(d) (epoch[d] >= highest && !due[d] && HEAD_EPOCH(d) == epoch[d])

proctype OldWriter() {
  byte k;
  do
  :: k < EVENTS -> atomic { head_n[OLD]++; events[OLD]++; k++ }
  :: break
  od
}

proctype NewWriter() {
  byte k, seen;
  promoted;
  do
  :: k < EVENTS ->
     atomic { !locked -> locked = 1; seen = epoch[NEW] };
     atomic {
       if
       :: SHORT && head_epoch[NEW] < seen -> head_epoch[NEW] = seen; head_n[NEW] = 1
       :: else -> head_n[NEW]++
       fi;
       events[NEW]++; locked = 0; seen = 0; k++ }
  :: else -> break
  od
}

proctype Failover() {
  if
  :: REPLICA -> route = NEW
  :: true
  fi;
  atomic { promoted = 1; due[NEW] = 1 };
  route = NEW;
  old_lives = 0
}

/* A new epoch and history. 4 and up are the ones that a server asked for. */
inline raise(d) { epoch[d]++; history[d] = history[d] + 2; due[d] = 0 }
#define REFUSED(d) (epoch[d] < highest && (!due[d] || REFUSE) && !BELIEVE)

inline see(d) { if :: epoch[d] > highest -> highest = epoch[d] :: else fi }

inline get(d) {
  if
  :: d == NEW -> if :: has_lost -> spliced = 1 :: else fi; has_new++; seen_new = 1
  :: d == OLD -> if :: seen_new -> went_back = 1 :: else fi; has_lost++
  fi
}

/* Another server, which may be the first to find NEW. */
proctype OtherServer() {
  promoted;
  if
  :: atomic { due[NEW] -> raise(NEW) }
  :: true
  fi
}

/* A statement that reaches d. */
inline pick() {
  if
  :: REACHES(OLD) -> d = OLD
  :: REACHES(NEW) -> d = NEW
  fi
}

inline append(d) {
  has_n++;
  get(d);
  resuming = 0
}

proctype Server() {
  bit d, e;
attach:
  atomic {                                          /* topology_check_epoch */
    feeding = 0;
    pick();
    if
    :: REFUSED(d) -> goto attach
    :: epoch[d] < highest && BELIEVE == 2 && raises > 0 -> raises--; epoch[d] = highest; raise(d)
    :: else -> if :: due[d] -> raise(d) :: else fi
    fi;
    if :: BELIEVE != 1 -> see(d) :: else fi
  };
lift:
  atomic {                                          /* topology_raise */
    pick();
    if
    :: SHORT || head_epoch[d] == epoch[d]
    :: !SHORT && head_epoch[d] < epoch[d] && (d == OLD || (promoted && !locked)) ->
       head_epoch[d] = epoch[d]; head_n[d] = 0
    :: else -> goto attach                          /* `unavailable`: somebody holds the head */
    fi
  };
  atomic {                                          /* the document, or the head that a resume is measured by */
    pick();
    if
    :: resuming && RIGHT(d) && epoch[d] == has_epoch && HEAD_N(d) >= has_n
    :: resuming && d == NEW && !promoted && epoch[d] == has_epoch && HEAD_N(d) < has_n -> goto attach
    :: else ->
       if
       :: IDENTITY && !RIGHT(d) -> goto attach
       :: else
       fi;
       has_epoch = HEAD_EPOCH(d); has_n = HEAD_N(d);
       if
       :: d == NEW -> has_new = events[NEW]; has_lost = 0; seen_new = 1
       :: d == OLD ->
          has_new = 0; has_lost = events[OLD];
          if :: seen_new -> went_back = 1 :: else fi
       fi
    fi;
    feed_epoch = has_epoch; feed_history = history[d]; feeding = 1; resuming = 0;
    if :: BELIEVE != 1 -> see(d) :: else fi;
    d = 0
  };
end:
  do
  :: atomic { !SPLIT && REACHES(OLD) && NEXT(OLD) && (SAME(OLD) || !IDENTITY) -> append(OLD) }
  :: atomic { !SPLIT && REACHES(NEW) && NEXT(NEW) && (SAME(NEW) || !IDENTITY) -> append(NEW) }
  :: atomic { SPLIT && ((REACHES(OLD) && SAME(OLD) && NEXT(OLD)) || (REACHES(NEW) && SAME(NEW) && NEXT(NEW))) };
     atomic {
       pick();
       if
       :: NEXT(d) -> append(d)
       :: else
       fi;
       d = 0 }
  :: atomic { IDENTITY && REACHES(OLD) && !SAME(OLD) && !REFUSED(OLD) -> d = OLD; goto differs }
  :: atomic { IDENTITY && REACHES(NEW) && !SAME(NEW) && !REFUSED(NEW) -> d = NEW; goto differs }
  :: atomic { !IDENTITY && REACHES(NEW) && (HEAD_EPOCH(NEW) != feed_epoch || HEAD_N(NEW) < has_n) -> goto reset }
  :: atomic { STREAM && on_standby && NEXT(NEW) -> append(NEW) }
  :: atomic { resumes > 0 ->
       resumes--; resuming = 1; highest = 0; on_standby = (route == NEW && !promoted);
       if
       :: MEMORY && on_standby -> goto memory
       :: else -> goto attach
       fi }
  od;
memory:                                             /* the mutant: the feed that the server has decides */
  atomic { HEAD_EPOCH(NEW) == has_epoch && HEAD_N(NEW) >= has_n -> resuming = 0; goto end };
differs:
  atomic {
    if
    :: epoch[d] == feed_epoch && !due[d] && HISTORY && history[d] != feed_history -> raise(d)
    :: else
    fi;
    goto attach
  };
reset:                                              /* a feed that is ahead of its head; nobody asks whose head it is */
  goto lift
}

proctype Judge() {
  timeout;
  ends_wrong = (has_lost != 0 || has_new != events[NEW]);
  assert(!spliced);
  assert(!went_back);
  assert(!ends_wrong)
}

init {
  atomic {
    if
    :: COPIES -> promoted = 1; due[OLD] = 1; due[NEW] = 1; history[NEW] = 1
    :: else
    fi;
    run OldWriter(); run NewWriter(); run Failover(); run OtherServer(); run Server(); run Judge()
  }
}
