package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/encoding/protodelim"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// parallel is how many clients meet an attack at once, and maxHeap what the whole process may then hold more than before, in
// bytes: daemon, clients and guests.
const (
	parallel = 8
	maxHeap  = 64 << 20
)

// attack is what a guest does, and what a client asks of it meanwhile.
type attack struct {
	do func(context.Context, *daemon) error
	// says is what the error of do says when it ends by itself. Where nothing is set, do goes on until its client gives up.
	says []string
	// fine lets do end without an error as well, or not end.
	fine  bool
	guest func(*guest)
}

// Requests of clients.
var (
	command = func(ctx context.Context, d *daemon) error {
		_, err := d.Exec(ctx, "evil", client.ExecStart{Argv: []string{"x"}}, client.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
		return err
	}
	withStdin = func(ctx context.Context, d *daemon) error {
		_, err := d.Exec(ctx, "evil", client.ExecStart{Argv: []string{"x"}}, client.ExecIO{Stdin: endless{}})
		return err
	}
	large = func(ctx context.Context, d *daemon) error {
		argv := slices.Repeat([]string{strings.Repeat("x", 100<<10)}, 15)
		_, err := d.Exec(ctx, "evil", client.ExecStart{Argv: argv}, client.ExecIO{})
		return err
	}
	signalled = func(ctx context.Context, d *daemon) error {
		signals := make(chan int, 1)
		signals <- 15
		_, err := d.Exec(ctx, "evil", client.ExecStart{Argv: []string{"x"}}, client.ExecIO{Signals: signals})
		return err
	}
	list    = func(ctx context.Context, d *daemon) error { _, err := d.Execs(ctx, "evil"); return err }
	stats   = func(ctx context.Context, d *daemon) error { s, err := d.Stats(ctx, "evil"); return problem(s, err) }
	stat    = func(ctx context.Context, d *daemon) error { _, err := d.StatFile(ctx, "evil", "/x", false); return err }
	listing = func(ctx context.Context, d *daemon) (err error) {
		for _, err = range d.ListFiles(ctx, "evil", "/x") {
		}
		return err
	}
	watching = func(ctx context.Context, d *daemon) (err error) {
		for _, err = range d.WatchFiles(ctx, "evil", "/x", true) {
		}
		return err
	}
	download = func(ctx context.Context, d *daemon) error {
		a, err := d.GetArchive(ctx, "evil", "/x", client.ArchiveOptions{})
		if err != nil {
			return err
		}
		defer a.Close()
		_, err = io.Copy(io.Discard, a)
		return err
	}
	ranges = func(ctx context.Context, d *daemon) error {
		r, err := d.ReadFile(ctx, "evil", "/x", 5, 1<<30)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
	upload = func(ctx context.Context, d *daemon) error {
		_, err := d.PutArchive(ctx, "evil", "/x", false, endless{})
		return err
	}
	write = func(ctx context.Context, d *daemon) error {
		_, err := d.WriteFile(ctx, "evil", "/x", client.WriteOptions{}, endless{})
		return err
	}
	dial = func(ctx context.Context, d *daemon) error {
		c, err := d.Dial(ctx, "evil", 80)
		if err != nil {
			return err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		go func() { _, _ = io.Copy(c, endless{}) }()
		_, err = io.Copy(io.Discard, c)
		return err
	}
	// The next ones ask, and never read the answer.
	deafCommand = func(ctx context.Context, d *daemon) error {
		return d.deaf(ctx, "exec", "exec.v1.agentkernel", `{"argv":["x"]}`)
	}
	deafDial = func(ctx context.Context, d *daemon) error {
		return d.deaf(ctx, "dial?port=80", "dial.v1.agentkernel", "")
	}
	deafDownload = func(ctx context.Context, d *daemon) error { return d.deafGet(ctx, "archive?path=/x") }
	deafListing  = func(ctx context.Context, d *daemon) error { return d.deafGet(ctx, "files/list?path=/x") }
	deafWatch    = func(ctx context.Context, d *daemon) error { return d.deafGet(ctx, "files/watch?path=/x") }
)

// noSlots is said to a client that has found none free: there are fewer than clients.
const noSlots = "there are none"

// Pieces of what a guest says.
var (
	accepted = slices.Clip(delimited(&guestv1.StreamResponse{})) // many append to it
	anyFile  = pieceOf(encode(&guestv1.FileInfo{Name: []byte("/x"), Mode: 0o100644, Size: 1 << 40}))
	output   = data(stdout(make([]byte, 32<<10)))
	inSlot   = func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, 1<<31|n) }
	frees    = func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, 1<<30|n) }
	chunk128 = append([]byte{0, 2, 0, 0}, make([]byte, 128<<10)...)
)

var attacks = map[string]attack{
	"exec: huge frame":            {command, []string{"a frame of 4294967295 bytes"}, false, onExec(says, bytes.Repeat([]byte{0xff}, 10))},
	"exec: length without a body": {command, nil, false, onExec(says, frame(1, typeData, make([]byte, 1000))[:500])},
	"exec: another stream":        {command, []string{"on stream 99"}, false, onExec(says, frame(99, typeData, encode(started)))},
	"exec: unknown kind of frame": {command, []string{"a message of type 77"}, false, onExec(says, frame(1, 77, nil))},
	"exec: garbage":               {command, []string{"run a command"}, false, onExec(says, frame(1, typeData, bytes.Repeat([]byte{0xff}, 100)))},
	"exec: exit code 70000":       {command, []string{"ended with code 70000"}, false, onExec(says, data(started, exited(70000, 0)))},
	"exec: code and signal":       {command, []string{"which cannot be"}, false, onExec(says, data(started, exited(1, 9)))},
	"exec: signal 65":             {command, []string{"which cannot be"}, false, onExec(says, data(started, exited(0, 65)))},
	"exec: exit before the start": {command, []string{"before the start"}, false, onExec(says, data(exited(0, 0)))},
	"exec: more after the exit":   {command, []string{"after the end"}, true, onExec(says, data(started, exited(0, 0), stdout([]byte("x"))))},
	"exec: two starts":            {command, []string{"twice"}, false, onExec(says, data(started, started))},
	"exec: empty output":          {command, []string{"a piece of output of 0 bytes"}, false, onExec(says, data(started, stdout(nil)))},
	"exec: credit for nothing":    {command, []string{"asked for 9 bytes of stdin"}, false, onExec(says, data(started, credit(9)))},
	"exec: output without end":    {command, []string{"more messages than"}, true, onExec(floods, data(started), output)},
	"exec: the same, unread":      {deafCommand, nil, false, onExec(floods, data(started), output)},
	"exec: tiny output":           {command, []string{"more messages than"}, true, onExec(floods, data(started), data(stdout([]byte{1})))},
	"exec: credit without end":    {withStdin, []string{"more messages than"}, true, onExec(floods, data(started), data(credit(1<<20)))},
	"exec: silence":               {command, nil, false, onCall("Exec", (*guest).silent)},
	"exec: reads nothing":         {large, nil, false, onCall("Exec", (*guest).silent)},
	"exec: reads no stdin":        {withStdin, nil, false, onCall("Exec", func(g *guest, c net.Conn) { _, _ = c.Write(data(started, credit(64<<20))); g.silent(c) })},
	"exec: ends, reads no stdin":  {withStdin, []string{""}, true, onCall("Exec", func(g *guest, c net.Conn) { _, _ = c.Write(data(started, credit(64<<20), exited(3, 0))); g.silent(c) })},
	"exec: no answer to a signal": {signalled, nil, false, func(g *guest) {
		onExec(says, data(started))(g)
		g.signal = func(ctx context.Context) error { g.tell(); <-ctx.Done(); return nil }
	}},
	"answers to nobody": {command, []string{""}, true, func(g *guest) {
		asked := make(chan struct{}) // so that the first answer has been taken
		ask := sync.OnceFunc(func() { close(asked) })
		g.calls = map[string]func(net.Conn){
			"Hello": func(c net.Conn) { _, _ = c.Write(response(1, hello())); <-asked; g.says(response(3, hello()))(c) },
			"Exec":  func(c net.Conn) { ask(); says(g, data(started, exited(0, 0)))(c) },
		}
	}},
	"answers another call": {stats, []string{"on stream 3 instead of"}, false, onCallSays("Sample", response(3, hello()))},
	"list: silence": {list, nil, false, func(g *guest) {
		g.list = func(ctx context.Context, _ *guestv1.ListRequest) (*guestv1.ListResponse, error) {
			g.tell()
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}},
	"list: without end": {list, []string{"the guest tells of"}, false, func(g *guest) {
		g.list = func(_ context.Context, r *guestv1.ListRequest) (*guestv1.ListResponse, error) {
			return manyExecs(r.GetAfter(), 0), nil
		}
	}},
	"list: large, without end": {list, []string{"bytes of them"}, false, func(g *guest) {
		g.list = func(_ context.Context, r *guestv1.ListRequest) (*guestv1.ListResponse, error) {
			return manyExecs(r.GetAfter(), 256), nil
		}
	}},
	"list: not in order": {list, []string{"in order"}, false, func(g *guest) {
		g.list = func(context.Context, *guestv1.ListRequest) (*guestv1.ListResponse, error) {
			return manyExecs(0, 1), nil
		}
	}},
	"stats: silence":             {stats, []string{"did not answer within"}, true, onCall("Sample", (*guest).silent)},
	"stats: huge frame":          {stats, []string{"a frame of"}, false, onCallSays("Sample", []byte("\x7f\xff\xff\xff\x00\x00\x00\x01\x02\x00"))},
	"stats: impossible":          {stats, []string{"what cannot be"}, false, onCallSays("Sample", response(1, &guestv1.SampleResponse{Cpus: 1 << 31}))},
	"stats: answers without end": {stats, []string{"instead of its statistics"}, true, onCall("Sample", func(g *guest, c net.Conn) { g.floods(nil, response(1, &guestv1.SampleResponse{}))(c) })},
	"kernel events without end": {command, nil, true, onCall("Watch", func(g *guest, c net.Conn) {
		g.floods(nil, frame(1, typeData, encode(&guestv1.KernelEvent{Event: &guestv1.KernelEvent_OomKill{OomKill: &guestv1.OOMKill{Pid: 1, Count: 1}}})))(c)
	})},
	"stream: silence":            {stat, nil, false, onStream((*guest).silent)},
	"stream: silence for a dial": {dial, nil, false, onStream((*guest).silent)},
	"stream: huge answer":        {stat, []string{"exceeded"}, false, streamSays([]byte("\xff\xff\xff\xff\x0f"))},
	"stream: endless length":     {stat, []string{"varint", "integer overflow"}, true, streamFloods(nil, []byte{0xff})},
	"stream: errno 2^32-1":       {stat, []string{"in the sandbox"}, false, streamSays(delimited(&guestv1.StreamResponse{Errno: 1<<32 - 1, Message: "\x1b[2J"}))},
	"files: huge piece":          {download, []string{"a length of"}, false, streamSays(accepted, []byte{0x3f, 0xff, 0xff, 0xff})},
	"files: huge result":         {stat, []string{"a length of"}, false, streamSays(accepted, []byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})},
	"slots: beyond one":          {download, []string{"in a slot of", noSlots}, false, streamSays(accepted, anyFile, inSlot(pieces.SlotSize+1))},
	"slots: all beyond":          {download, []string{"in a slot of", noSlots}, false, streamSays(accepted, anyFile, []byte{0xff, 0xff, 0xff, 0xff})},
	"slots: nothing in one":      {download, []string{"in a slot of", noSlots}, false, streamSays(accepted, anyFile, inSlot(0))},
	"slots: instead of a file":   {download, []string{"should not be", noSlots}, false, streamSays(accepted, inSlot(1000))},
	"slots: for a list":          {listing, []string{"there are none"}, false, streamSays(accepted, inSlot(1000))},
	"slots: for a result":        {upload, []string{"there are none"}, false, streamSays(accepted, inSlot(1000))},
	"slots: pieces without end":  {download, []string{noSlots}, true, streamFloods(append(accepted, anyFile...), inSlot(pieces.SlotSize))},
	"slots: tiny pieces":         {download, []string{noSlots}, true, streamFloods(append(accepted, anyFile...), inSlot(1))},
	"slots: the same, unread":    {deafDownload, []string{noSlots, "EOF"}, true, streamFloods(append(accepted, anyFile...), inSlot(pieces.SlotSize))},
	"slots: frees too many":      {upload, []string{"more slots", "slots were freed that nobody uses"}, false, streamSays(accepted, frees(pieces.NumSlots+1))},
	"slots: frees nobody's":      {download, []string{"nobody uses"}, false, streamSays(accepted, frees(1))},
	"slots: frees without end":   {upload, []string{"more slots", "slots were freed that nobody uses", "broken pipe"}, true, streamFloods(accepted, frees(1))},
	"slots: frees no more": {upload, nil, false, func(g *guest) {
		g.stream = func(c net.Conn, r *guestv1.StreamRequest) {
			first := slices.Clone(accepted)
			if r.GetFiles().GetBulkOffset() != 0 { // there are not enough for all
				first = append(first, frees(pieces.NumSlots)...)
			}
			_, _ = c.Write(first)
			g.silent(c)
		}
	}},
	"files: half a piece":          {download, nil, false, streamSays(accepted, anyFile, []byte{0, 1, 0, 0, 'x'})},
	"archive: without end":         {download, nil, false, streamFloods(append(accepted, anyFile...), pieceOf(make([]byte, pieces.Max)))},
	"archive: tiny pieces":         {download, nil, false, streamFloods(append(accepted, anyFile...), pieceOf([]byte{1}))},
	"archive: the same, unread":    {deafDownload, nil, false, streamFloods(append(accepted, anyFile...), pieceOf(make([]byte, pieces.Max)))},
	"file: a range, without end":   {ranges, nil, true, streamFloods(append(accepted, anyFile...), pieceOf(make([]byte, pieces.Max)))},
	"file: silence in a range":     {ranges, nil, false, streamSays(accepted, anyFile)},
	"directory: without end":       {listing, nil, false, streamFloods(accepted, pieceOf(listOf(500)))},
	"directory: the same, unread":  {deafListing, nil, false, streamFloods(accepted, pieceOf(listOf(500)))},
	"directory: a heap of nothing": {listing, []string{"at once"}, false, streamFloods(accepted, pieceOf(bytes.Repeat([]byte{0x0a, 0}, pieces.Max/2)))},
	"directory: most at once":      {deafListing, nil, false, streamFloods(accepted, pieceOf(listOf(16<<10)))},
	"watch: without end":           {watching, nil, false, streamFloods(accepted, pieceOf(changesOf(2000)))},
	"watch: the same, unread":      {deafWatch, nil, false, streamFloods(accepted, pieceOf(changesOf(2000)))},
	"watch: a heap of nothing":     {watching, []string{"at once"}, false, streamFloods(accepted, pieceOf(bytes.Repeat([]byte{0x0a, 0}, pieces.Max/2)))},
	"upload: reads nothing":        {upload, nil, false, onStream(func(g *guest, c net.Conn) { _, _ = c.Write(accepted); g.silent(c) })},
	"write: reads nothing":         {write, nil, false, onStream(func(g *guest, c net.Conn) { _, _ = c.Write(accepted); g.silent(c) })},
	"upload: answers without end":  {upload, []string{"nobody asked for", "broken pipe"}, false, streamFloods(accepted, pieceOf(make([]byte, 1000)))},
	"forward: reads nothing":       {dial, nil, false, onStream(func(g *guest, c net.Conn) { _, _ = c.Write(accepted); g.silent(c) })},
	"forward: floods":              {dial, nil, false, streamFloods(accepted, chunk128)},
	"forward: floods, unread":      {deafDial, nil, false, streamFloods(accepted, chunk128)},
	"forward: tiny chunks":         {dial, nil, false, streamFloods(accepted, []byte{0, 0, 0, 1, 'x'})},
	"forward: huge chunk":          {dial, nil, false, streamSays(accepted, []byte{0x7f, 0xff, 0xff, 0xff, 'x'})},
	"forward: huge reason":         {dial, []string{"a reason of"}, false, streamSays(accepted, []byte{0xff, 0xff, 0xff, 0xff})},
}

// TestAttacks has clients ask things of a guest that attacks. Whatever it does: the daemon serves others and holds a bounded
// amount, requests end with their clients, and nothing is left over.
func TestAttacks(t *testing.T) {
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			flood := strings.Contains(name, "without end") || strings.Contains(name, "a heap")
			if len(a.says) > 0 && !a.fine && !flood {
				t.Parallel() // these wait most of the time, and hold nothing
			}
			a.run(t)
		})
	}
}

func (a attack) run(t *testing.T) {
	g := &guest{reached: make(chan struct{}, 100*parallel)}
	a.guest(g)
	d := newDaemon(t, g)
	started, cancelStart := context.WithTimeout(t.Context(), patience)
	defer cancelStart()
	if _, err := d.Start(started, "evil", client.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, parallel)
	for range parallel {
		go func() { ended <- a.do(ctx, d) }()
	}
	deadline := time.After(patience)
	left := parallel
	wanted := parallel
	if g.list != nil { // calls on the control connection go one after another
		wanted = 1
	}
	for reached := 0; reached < wanted && left > 0; {
		select {
		case <-g.reached:
			reached++
		case err := <-ended:
			left--
			a.judge(t, err)
		case <-deadline:
			t.Fatalf("%d of %d requests have met the attack", reached, wanted)
		}
	}
	for left > 0 && len(a.says) > 0 && !a.fine {
		select {
		case err := <-ended:
			left--
			a.judge(t, err)
		case <-deadline:
			t.Fatalf("%d requests do not end", left)
		}
	}
	d.served(t)
	held := int64(heap()) - int64(before)
	t.Logf("%d KiB held by %d requests, %d of which are under way", held>>10, parallel, left)
	if held > maxHeap {
		t.Errorf("%d MiB are held, more than %d", held>>20, maxHeap>>20)
	}
	cancel()
	for ; left > 0; left-- {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a request does not end with its context")
		}
	}
	d.handled(t)
	if s := d.logged.String(); strings.Contains(s, "panic") {
		t.Error(s)
	}
	stop, cancelStop := context.WithTimeout(t.Context(), patience)
	defer cancelStop()
	if _, err := d.Stop(stop, "evil", 0); err != nil {
		t.Error(err)
	}
}

// judge looks at a request that has ended by itself.
func (a attack) judge(t *testing.T, err error) {
	t.Helper()
	if err == nil && a.fine {
		return
	}
	if err == nil || !slices.ContainsFunc(a.says, func(s string) bool { return strings.Contains(err.Error(), s) }) {
		t.Errorf("it ended with %v, want an error with one of %q", err, a.says)
	} else if strings.ContainsAny(err.Error(), "\x1b\x07\n") {
		t.Errorf("an error that a terminal obeys: %q", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func problem(s client.Stats, err error) error {
	if err == nil && s.GuestProblem != nil {
		err = errors.New(*s.GuestProblem)
	}
	return err
}

func (d *daemon) deaf(ctx context.Context, path, protocol, first string) error {
	conn, _, err := websocket.Dial(ctx, "http://daemon/v1/sandboxes/evil/"+path, &websocket.DialOptions{ //nolint:bodyclose // there is none after an upgrade
		HTTPClient: &http.Client{Transport: d.transport()}, Subprotocols: []string{protocol},
	})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	if first != "" {
		if err := conn.Write(ctx, websocket.MessageText, []byte(first)); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func (d *daemon) deafGet(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/v1/sandboxes/evil/"+path, nil)
	if err != nil {
		return err
	}
	resp, err := d.transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the status is %s", resp.Status)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (d *daemon) transport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket)
	}}
}

func onCall(method string, f func(*guest, net.Conn)) func(*guest) {
	return func(g *guest) { g.calls = map[string]func(net.Conn){method: func(c net.Conn) { f(g, c) }} }
}

func onCallSays(method string, b []byte) func(*guest) {
	return onCall(method, func(g *guest, c net.Conn) { g.says(b)(c) })
}

func says(g *guest, parts ...[]byte) func(net.Conn)   { return g.says(slices.Concat(parts...)) }
func floods(g *guest, parts ...[]byte) func(net.Conn) { return g.floods(parts[0], parts[1]) }

func onExec(how func(*guest, ...[]byte) func(net.Conn), parts ...[]byte) func(*guest) {
	return onCall("Exec", func(g *guest, c net.Conn) { how(g, parts...)(c) })
}

func onStream(f func(*guest, net.Conn)) func(*guest) {
	return func(g *guest) { g.stream = func(c net.Conn, _ *guestv1.StreamRequest) { f(g, c) } }
}

func streamSays(parts ...[]byte) func(*guest) {
	return onStream(func(g *guest, c net.Conn) { says(g, parts...)(c) })
}

func streamFloods(head, again []byte) func(*guest) {
	return onStream(func(g *guest, c net.Conn) { g.floods(head, again)(c) })
}

func delimited(m *guestv1.StreamResponse) []byte {
	var b bytes.Buffer
	if _, err := protodelim.MarshalTo(&b, m); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func pieceOf(p []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...)
}

func listOf(n int) []byte {
	m := new(guestv1.FileList)
	for i := range n {
		m.Files = append(m.Files, &guestv1.FileInfo{Name: fmt.Append(nil, "file", i)})
	}
	return encode(m)
}

func changesOf(n int) []byte {
	m := new(guestv1.WatchEvents)
	for i := range n {
		m.Events = append(m.Events, &guestv1.WatchEvent{Kind: guestv1.WatchEvent_CREATED, Path: fmt.Append(nil, "/file", i)})
	}
	return encode(m)
}

// manyExecs is a full page of a list, whose commands have so many empty arguments.
func manyExecs(after uint64, args int) *guestv1.ListResponse {
	r := &guestv1.ListResponse{More: true}
	for i := range uint64(64) {
		r.Execs = append(r.Execs, &guestv1.ExecInfo{Number: after + i + 1, Id: "x", Argv: make([]string, args)})
	}
	if args > 200 {
		r.Execs = r.Execs[:60] // what fits into a frame
	}
	return r
}
