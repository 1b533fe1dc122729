package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/transport/bulk"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

// PackSpec says what Pack sends.
type PackSpec struct {
	Path   string
	Name   string // of the first member; empty: the path's last component
	Follow bool   // when the path is a symbolic link, send what it points to
}

// Pack begins to send a tar archive of a file or directory. Nothing of the archive is checked: treat it as hostile.
func (f *Files) Pack(ctx context.Context, spec PackSpec) (*Download, error) {
	return f.download(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Pack{Pack: &guestv1.Pack{
		Path: []byte(spec.Path), Name: []byte(spec.Name), Follow: spec.Follow,
	}}})
}

// Read begins to send length bytes of a file from offset, or less at its end; length 0 is all.
func (f *Files) Read(ctx context.Context, path string, offset, length int64) (*Download, error) {
	return f.download(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Read{Read: &guestv1.ReadFile{
		Path: []byte(path), Offset: uint64(offset), Length: uint64(length),
	}}})
}

func (f *Files) download(ctx context.Context, req *guestv1.FilesRequest) (*Download, error) {
	region := f.offer(req)
	conn, err := f.open(ctx, req)
	if err != nil {
		if region != nil {
			region.Release()
		}
		return nil, err
	}
	d := &Download{conn: conn, r: pieces.NewReader(conn), region: region, explain: f.explain, ctx: ctx}
	if region != nil {
		d.r.Use(region, func() error { return pieces.Free(conn, 1) })
	}
	d.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = d.first()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = d.Close()
		return nil, f.explain(err)
	}
	return d, nil
}

// Download is bytes that a guest sends. Read is for one goroutine. Close may be called by any, and ends it, as does the end
// of the context that the download began with.
type Download struct {
	Info    FileInfo
	Copied  Copied // of an archive; valid once Read has returned io.EOF
	conn    Conn
	ctx     context.Context
	stop    func() bool
	r       *pieces.Reader
	region  *bulk.Region
	explain func(error) error
	err     error
}

// first takes the description that comes before the bytes.
func (d *Download) first() error {
	b, err := d.r.Piece(nil)
	if errors.Is(err, io.EOF) {
		if _, err = result(d.r); err == nil {
			err = errors.New("the guest did not say what it sends")
		}
	}
	if err != nil {
		return err
	}
	m := new(guestv1.FileInfo)
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("decode what the guest says of a file: %w", err)
	}
	d.Info, err = fileInfo(m, maxPath)
	return err
}

// Read returns io.EOF when all has come, and what the guest says when that cannot be.
func (d *Download) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.r.Read(p)
	if errors.Is(err, io.EOF) {
		var m *guestv1.FilesResult
		if m, err = result(d.r); err == nil {
			err = io.EOF
		}
		if m != nil {
			d.Copied = copied(m)
		}
	} else if err != nil {
		if d.ctx.Err() != nil {
			err = context.Cause(d.ctx)
		}
		err = d.explain(err)
	}
	d.err = err
	return n, err
}

// Close ends the operation.
func (d *Download) Close() error {
	d.stop()
	err := d.conn.Close()
	if d.region != nil {
		d.region.Release()
	}
	return err
}

// Unpack sends a tar archive into a directory; owner keeps the archive's numeric owners. It reads r in another goroutine,
// which may still wait in a Read when Unpack has returned because the guest or ctx ended it.
func (f *Files) Unpack(ctx context.Context, path string, owner bool, r io.Reader) (Copied, error) {
	m, err := f.upload(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Unpack{Unpack: &guestv1.Unpack{Path: []byte(path), Owner: owner}}}, r)
	if m == nil {
		return Copied{}, err
	}
	return copied(m), err
}

// WriteSpec says what Write does.
type WriteSpec struct {
	Path string
	Mode uint32 // permission bits of a new file; 0: 0644
	Sync bool   // return when it is on the guest's disk
}

// Write puts a file with the bytes of r in the place of what is there, once all have come. It uses r as Unpack does.
func (f *Files) Write(ctx context.Context, spec WriteSpec, r io.Reader) (FileInfo, error) {
	m, err := f.upload(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Write{Write: &guestv1.WriteFile{
		Path: []byte(spec.Path), Mode: spec.Mode, Sync: spec.Sync,
	}}}, r)
	if err != nil {
		return FileInfo{}, err
	}
	return fileInfo(m.GetInfo(), maxPath)
}

// upload sends r, when it is not nil, and returns the guest's result, which may come before the end of r.
func (f *Files) upload(ctx context.Context, req *guestv1.FilesRequest, r io.Reader) (*guestv1.FilesResult, error) {
	var region *bulk.Region
	if r != nil {
		if region = f.offer(req); region != nil {
			defer region.Release()
		}
	}
	conn, err := f.open(ctx, req)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	back := pieces.NewReader(conn)
	sent := make(chan error, 1)
	if r != nil {
		credit := pieces.NewCredit(0)
		defer credit.Close()
		w := pieces.NewWriter(conn)
		if region != nil {
			w.Use(region, credit)
			back.Count(credit)
		}
		go func() { // ends when r does, or with its next piece
			err := send(w, r, region != nil)
			sent <- err
			if err != nil {
				_ = conn.Close() // the guest shall not wait for more
			}
		}()
	}
	_, err = back.Piece(nil)
	if !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("the guest sent bytes that nobody asked for")
		}
		select {
		case cause := <-sent: // before conn is closed, which ends the sending too
			if cause != nil {
				err = fmt.Errorf("send to the guest: %w", cause)
			}
		default:
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, f.explain(err)
	}
	return result(back)
}

// send sends r and the end. With slots it waits until it can fill one: each costs the guest the same, however full.
func send(w *pieces.Writer, r io.Reader, slots bool) error {
	if !slots {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, pieces.Max))
		if err != nil {
			return err
		}
		return w.End(nil)
	}
	buf := make([]byte, pieces.SlotSize)
	for {
		n, err := fill(r, buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if err != nil {
			return w.End(nil)
		}
	}
}

// fill reads until p is full. At the end of r it returns io.EOF, and what r returns for anything else: io.ReadFull's errors do not
// tell a short end from a body that broke off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

// List calls each with the files of a directory, some at a time, in no order, until it returns an error.
func (f *Files) List(ctx context.Context, path string, each func([]FileInfo) error) error {
	req := &guestv1.FilesRequest{Op: &guestv1.FilesRequest_List{List: &guestv1.ListFiles{Path: []byte(path)}}}
	return f.messages(ctx, req, func(b []byte) error {
		m := new(guestv1.FileList)
		if err := unmarshalList(b, m); err != nil {
			return fmt.Errorf("decode a list of files: %w", err)
		}
		files := make([]FileInfo, len(m.GetFiles()))
		for i, file := range m.GetFiles() {
			var err error
			if files[i], err = fileInfo(file, maxName); err != nil {
				return err
			}
		}
		return each(files)
	})
}

// maxTogether bounds the elements of one message. An honest guest puts about 64 KiB into one, and none has less than 6 bytes.
const maxTogether = 16 << 10

// unmarshalList decodes a message whose only field is a list of messages. An empty element has two bytes on the wire and more
// than a hundred in memory, so they are counted before they are made.
func unmarshalList(b []byte, m proto.Message) error {
	count := 0
	for rest := b; len(rest) > 0; count++ {
		n := protowire.ConsumeFieldValue(1, protowire.BytesType, rest[min(len(rest), 1):])
		if rest[0] != 1<<3|byte(protowire.BytesType) || n < 0 {
			return errors.New("the guest sent something else than a list")
		}
		rest = rest[1+n:]
	}
	if count > maxTogether {
		return fmt.Errorf("the guest told of %d at once, more than the %d allowed", count, maxTogether)
	}
	return proto.Unmarshal(b, m)
}

// changeKinds are the names of what a watch tells.
var changeKinds = map[guestv1.WatchEvent_Kind]string{
	guestv1.WatchEvent_READY: "ready", guestv1.WatchEvent_CREATED: "created", guestv1.WatchEvent_MODIFIED: "modified",
	guestv1.WatchEvent_ATTRIBUTES: "attributes", guestv1.WatchEvent_REMOVED: "removed", guestv1.WatchEvent_MOVED: "moved",
	guestv1.WatchEvent_WRITTEN: "written", guestv1.WatchEvent_OVERFLOW: "overflow", guestv1.WatchEvent_GONE: "gone",
}

// Change is what a watch tells.
type Change struct {
	Kind      string // one of changeKinds
	Path      string
	From      string // of a move
	Directory bool
}

// Watch calls each with what changes at a path, and with recursive also in the directories below it, until it returns an
// error, ctx ends or what is watched is gone. The first change, of kind ready, says that all from now on is told.
func (f *Files) Watch(ctx context.Context, path string, recursive bool, each func([]Change) error) error {
	req := &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Watch{Watch: &guestv1.WatchFiles{Path: []byte(path), Recursive: recursive}}}
	return f.messages(ctx, req, func(b []byte) error {
		m := new(guestv1.WatchEvents)
		if err := unmarshalList(b, m); err != nil {
			return fmt.Errorf("decode changes of files: %w", err)
		}
		changes := make([]Change, len(m.GetEvents()))
		for i, e := range m.GetEvents() {
			kind, ok := changeKinds[e.GetKind()]
			if !ok || len(e.GetPath()) > 2*maxPath || len(e.GetFrom()) > 2*maxPath {
				return errors.New("the guest told of a change that cannot be")
			}
			changes[i] = Change{kind, string(e.GetPath()), string(e.GetFrom()), e.GetDirectory()}
		}
		return each(changes)
	})
}

// messages hands the pieces that the guest sends to each.
func (f *Files) messages(ctx context.Context, req *guestv1.FilesRequest, each func([]byte) error) error {
	conn, err := f.open(ctx, req)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r := pieces.NewReader(conn)
	var piece []byte
	for {
		if piece, err = r.Piece(piece); err != nil {
			break
		}
		if err := each(piece); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !errors.Is(err, io.EOF) {
		return f.explain(err)
	}
	_, err = result(r)
	return err
}
