package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"topostream/pgbus/pgtest"
)

// selfSigned makes a certificate and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: privateDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A blackHole is a network of its own for a client, that can vanish without a word.
type blackHole struct {
	t         *testing.T
	namespace string
	server    string // address of this side
}

func newBlackHole(t *testing.T, net byte) *blackHole {
	t.Helper()
	name := fmt.Sprintf("ts%d-%d", os.Getpid()%100000, net)
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	subnet := fmt.Sprintf("198.18.%d.", net) // RFC 2544: nobody's
	for _, args := range []string{
		"netns add " + name,
		"link add " + name + "a type veth peer name " + name + "b netns " + name,
		"addr add " + subnet + "1/24 dev " + name + "a",
		"link set " + name + "a up",
		"-n " + name + " addr add " + subnet + "2/24 dev " + name + "b",
		"-n " + name + " link set " + name + "b up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Skipf("this machine gives no network namespaces: ip %s: %v: %s", args, err, bytes.TrimSpace(out))
		}
		if strings.HasPrefix(args, "netns add") {
			t.Cleanup(func() {
				_ = exec.Command("ip", "link", "del", name+"a").Run() // it may not be there yet; with it goes its peer
				if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
					t.Errorf("ip netns del: %v: %s", err, out)
				}
			})
		}
	}
	return &blackHole{t, name, subnet + "1"}
}

// dial connects from within. The socket stays there, whoever uses it.
func (b *blackHole) dial(address string) net.Conn {
	b.t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	dialed := make(chan result)
	go func() {
		runtime.LockOSThread() // and never let go: the thread ends with its goroutine
		var r result
		if r.err = b.enter(); r.err == nil {
			r.conn, r.err = net.Dial("tcp", address)
		}
		dialed <- r
	}()
	r := <-dialed
	if r.err != nil {
		b.t.Fatal(r.err)
	}
	b.t.Cleanup(func() { _ = r.conn.Close() }) // nobody hears of it
	return r.conn
}

func (b *blackHole) enter() error {
	f, err := os.Open("/var/run/netns/" + b.namespace)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// vanish drops whatever comes from now on.
func (b *blackHole) vanish() {
	b.t.Helper()
	if out, err := exec.Command("ip", "-n", b.namespace, "link", "set", b.namespace+"b",
		"down").CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
}

func TestConnectionsOfALiveServerHaveTheOptionsThatFindDeadClients(t *testing.T) {
	t.Parallel()
	cmd := serveCmd{Addr: "127.0.0.1:0", WriteTimeout: time.Second}
	l, err := cmd.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	client, err := net.Dial("tcp", l.main.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }() // nothing was sent
	conn, err := l.main.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // as above
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		t.Fatalf("%T", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var timeout, keepalive, idle, interval, count int
	if err := raw.Control(func(fd uintptr) {
		timeout, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		keepalive, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		interval, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
		count, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	}); err != nil {
		t.Fatal(err)
	}
	if timeout != 30_000 || keepalive != 1 {
		t.Errorf("TCP_USER_TIMEOUT %d ms, SO_KEEPALIVE %d", timeout, keepalive)
	}
	if idle != 15 || interval != 5 || count != 3 {
		t.Errorf("keepalives after %d s, each %d s, %d of them", idle, interval, count)
	}
}

func TestAClientThatDiesWithoutAGoodbyeGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	long(t)
	hole := newBlackHole(t, byte(1+os.Getpid()%250))
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, func(c *serveCmd) {
		c.Addr, c.MaxStreamsPerUser = hole.server+":0", 1
		c.Keepalive, c.WriteTimeout, c.deadAfter = 100*time.Millisecond, 2*time.Second, 2*time.Second
	})
	conn := hole.dial(strings.TrimPrefix(server.url, "http://"))
	if _, err := fmt.Fprintf(conn,
		"GET /api/v1/topologies/%s/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", id,
		testToken(t)); err != nil {
		t.Fatal(err)
	}
	if event := firstEvent(t, conn); event != "snapshot" {
		t.Fatal(event)
	}
	url := server.url + "/api/v1/topologies/" + id + "/events"
	if status, _, body := get(t, url); status != http.StatusTooManyRequests {
		t.Fatalf("%d %s", status, body)
	}
	hole.vanish()
	pgtest.Eventually(t, "the dead client's place",
		func() bool { return metric(t, server.url, "topostream_streams") == 0 })
	res := open(t, url)
	defer func() { _ = res.Body.Close() }() // its beginning is wanted
	if event := firstEvent(t, res.Body); event != "snapshot" {
		t.Error(event)
	}
}
