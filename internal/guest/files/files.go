// Package files does what the host asks for with the files of a sandbox: api/guest/v1/files.proto. It runs as root of the
// guest, with the sandbox's root as its own.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/archive"
	"github.com/agentkernel/agentkernel/internal/guest/bulk"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

// maxPath is PATH_MAX of Linux without its NUL.
const maxPath = 4095

// Service does the operations.
type Service struct {
	// Bulk is where large pieces may pass; nil when there is no such way.
	Bulk *bulk.Disk
}

// Handle does one operation: it is the handler of "files" in package stream.
func (v Service) Handle(_ context.Context, s *stream.Stream) error {
	o := &operation{s: s, bulk: v.Bulk}
	defer o.close()
	switch op := s.Request.GetFiles().GetOp().(type) {
	case *guestv1.FilesRequest_Pack:
		return o.pack(op.Pack)
	case *guestv1.FilesRequest_Unpack:
		return o.unpack(op.Unpack)
	case *guestv1.FilesRequest_Read:
		return o.read(op.Read)
	case *guestv1.FilesRequest_Write:
		return o.write(op.Write)
	case *guestv1.FilesRequest_List:
		return o.list(op.List)
	case *guestv1.FilesRequest_Watch:
		return o.watch(op.Watch)
	case *guestv1.FilesRequest_Stat:
		return o.tell(stat(op.Stat))
	case *guestv1.FilesRequest_Mkdir:
		return o.tell(mkdir(op.Mkdir))
	case *guestv1.FilesRequest_Remove:
		return o.tell(nil, remove(op.Remove))
	case *guestv1.FilesRequest_Rename:
		return o.tell(nil, rename(op.Rename))
	case *guestv1.FilesRequest_Chmod:
		return o.tell(nil, chmod(op.Chmod))
	}
	return fmt.Errorf("this guest agent does not know the operation: %w", unix.ENOSYS)
}

// operation is one that is under way. An error that a method returns before accept is the answer to the host; after it, the
// host learns of errors by the result, and the methods return nil when it has been sent or nobody is there to take it.
type operation struct {
	s      *stream.Stream
	bulk   *bulk.Disk
	conn   io.ReadWriter // after accept
	out    *pieces.Writer
	region *bulk.Region   // nil: all goes through conn
	credit *pieces.Credit // of what is sent through region
}

// accept tells the host that the operation takes place.
func (o *operation) accept() error {
	c, err := o.s.Accept()
	if err != nil {
		return err
	}
	o.conn, o.out = c.Conn, pieces.NewWriter(c.Conn)
	return nil
}

// take takes the region that the host offers. Without one the operation is only slower.
func (o *operation) take() {
	offer := o.s.Request.GetFiles().GetBulkOffset()
	if offer == 0 || o.bulk == nil {
		return
	}
	if r, err := o.bulk.Take(offer); err == nil {
		o.region = r
	}
}

// sendFar has large pieces of what is sent pass through the region. The host, which sends nothing else, frees its slots.
func (o *operation) sendFar() {
	if o.take(); o.region == nil {
		return
	}
	o.credit = pieces.NewCredit(pieces.NumSlots)
	o.out.Use(o.region, o.credit)
	from := pieces.NewReader(o.conn)
	from.Count(o.credit)
	go func() { // ends with the connection
		_, _ = from.Piece(nil)
		o.credit.Close()
	}()
}

// source is what the host sends.
func (o *operation) source() *pieces.Reader {
	r := pieces.NewReader(o.conn)
	if o.take(); o.region != nil {
		r.Use(o.region, func() error { return pieces.Free(o.conn, 1) })
		_ = pieces.Free(o.conn, pieces.NumSlots) // a host that is gone is found out by reading
	}
	return r
}

// memory is for direct input and output; nil without a region.
func (o *operation) memory() []byte {
	if o.region == nil {
		return nil
	}
	return o.region.Memory()
}

func (o *operation) close() {
	if o.region != nil {
		o.region.Release()
	}
}

// tell answers an operation that has no bytes.
func (o *operation) tell(info *guestv1.FileInfo, err error) error {
	if err != nil {
		return err
	}
	if err := o.accept(); err != nil {
		return err
	}
	return o.end(&guestv1.FilesResult{Info: info})
}

// end sends the end of what the guest sends, with the result. A host that is gone does not hear it.
func (o *operation) end(r *guestv1.FilesResult) error {
	b, err := proto.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a result: %w", err)
	}
	_ = o.out.End(b)
	return nil
}

// failure is what the host is told of an error; nil when there is none.
func failure(err error) *guestv1.FilesFailure {
	if err == nil {
		return nil
	}
	f := &guestv1.FilesFailure{Message: strings.ToValidUTF8(cut(err.Error()), "\ufffd")}
	var errno unix.Errno
	var conflict *archive.ConflictError
	switch {
	case errors.As(err, &conflict):
		f.Conflict = true
	case errors.As(err, &errno):
		f.Errno = uint32(errno)
	}
	return f
}

// cut bounds a message, which may have a path in it.
func cut(s string) string {
	const most = 2000
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// clean checks a path of a request. A slash or "/." at its end stays, and means that it is a directory.
func clean(b []byte) (string, error) {
	path := string(b)
	switch {
	case len(path) > maxPath:
		return "", fmt.Errorf("the path has %d bytes: %w", len(path), unix.ENAMETOOLONG)
	case !strings.HasPrefix(path, "/"):
		return "", fmt.Errorf("the path %q is not absolute: %w", path, unix.EINVAL)
	case strings.IndexByte(path, 0) >= 0:
		return "", fmt.Errorf("the path %q has a NUL in it: %w", path, unix.EINVAL)
	}
	return path, nil
}

// resolve returns a path without links. With the last component a link that is not to be followed, or nothing, that stays
// as it is.
func resolve(path string, follow bool) (string, error) {
	var base string
	dir := path
	if !follow && !strings.HasSuffix(path, "/") && !strings.HasSuffix(path, "/.") {
		dir, base = filepath.Split(filepath.Clean(path))
	}
	found, err := filepath.EvalSymlinks(dir)
	if err != nil {
		var in *os.PathError
		if !errors.As(err, &in) { // the error of lstat(2) has the path up to what is wrong in it
			err = &os.PathError{Op: "find", Path: dir, Err: err}
		}
		return "", err
	}
	return filepath.Join(found, base), nil
}

// info describes a file.
func info(name string, st *unix.Stat_t, target string) *guestv1.FileInfo {
	return &guestv1.FileInfo{
		Name: []byte(name), Mode: st.Mode, Size: uint64(max(st.Size, 0)), ModifiedNs: st.Mtim.Nano(), Uid: st.Uid, Gid: st.Gid,
		Target: []byte(target), Inode: st.Ino, Links: uint32(min(uint64(st.Nlink), 1<<32-1)), Blocks: uint64(max(st.Blocks, 0)),
	}
}

// look describes what a path names.
func look(path string, follow bool) (*guestv1.FileInfo, error) {
	path, err := resolve(path, follow)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "look at", Path: path, Err: err}
	}
	target := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	return info(path, &st, target), nil
}
