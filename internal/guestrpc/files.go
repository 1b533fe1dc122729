package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/bulk"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

const (
	maxPath = 4095 // bytes: PATH_MAX of Linux without its NUL
	maxName = 255  // bytes: NAME_MAX
	// maxLeftOut bounds the warnings of one operation that are looked at.
	maxLeftOut = 64
)

// FileInfo describes a file of a guest. All of it is the guest's word; Name and Target are any bytes.
type FileInfo struct {
	Name     string // in a list: one component; else an absolute path
	Mode     uint32 // st_mode of Linux: inode(7)
	Size     int64
	Modified time.Time
	UID, GID uint32
	Target   string // of a symbolic link
	Inode    uint64
	Links    uint32
	Blocks   int64 // of 512 bytes
}

// Regular reports whether it is a regular file.
func (f *FileInfo) Regular() bool { return f.Mode&0o170000 == 0o100000 }

// Copied says what became of an archive.
type Copied struct {
	LeftOut  int      // members that were left out, or not whole
	Warnings []string // the first of them, printable
}

// OpenFiles begins an operation on files: OpenStream on a new connection.
type OpenFiles func(context.Context, *guestv1.StreamRequest) (Conn, error)

// Files does operations on the files of one microVM, each on a connection of its own. An error that the guest has answered
// with is a *sandbox.Error. Paths are absolute.
type Files struct {
	begin   OpenFiles
	explain func(error) error
	area    *bulk.Area
}

// NewFiles returns the files behind begin. What breaks a connection is told through explain. Large pieces pass through the
// area, unless it is nil.
func NewFiles(begin OpenFiles, explain func(error) error, area *bulk.Area) *Files {
	return &Files{begin, explain, area}
}

// offer takes a region for an operation with many bytes and offers it to the guest. It may be nil; else it is to be released.
func (f *Files) offer(req *guestv1.FilesRequest) *bulk.Region {
	if f.area == nil {
		return nil
	}
	r := f.area.Take()
	if r != nil {
		req.BulkOffset = uint64(r.Offset)
	}
	return r
}

// open begins an operation.
func (f *Files) open(ctx context.Context, req *guestv1.FilesRequest) (Conn, error) {
	conn, err := f.begin(ctx, &guestv1.StreamRequest{Op: &guestv1.StreamRequest_Files{Files: req}})
	var refused *StreamError
	if errors.As(err, &refused) {
		return nil, failed(&guestv1.FilesFailure{Errno: uint32(refused.Errno), Message: refused.Message})
	}
	if err != nil {
		return nil, f.explain(err)
	}
	return conn, nil
}

// do does an operation that has no bytes.
func (f *Files) do(ctx context.Context, req *guestv1.FilesRequest) (FileInfo, error) {
	m, err := f.upload(ctx, req, nil)
	if err != nil || m.GetInfo() == nil {
		return FileInfo{}, err
	}
	return fileInfo(m.GetInfo(), maxPath)
}

// Stat describes a file; with follow what a symbolic link points to. Name is its path without links.
func (f *Files) Stat(ctx context.Context, path string, follow bool) (FileInfo, error) {
	return f.do(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Stat{Stat: &guestv1.StatFile{Path: []byte(path), Follow: follow}}})
}

// Mkdir makes a directory; mode 0 is 0755. With parents it makes those too, and is content with one that exists.
func (f *Files) Mkdir(ctx context.Context, path string, mode uint32, parents bool) (FileInfo, error) {
	return f.do(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Mkdir{Mkdir: &guestv1.MakeDirectory{Path: []byte(path), Mode: mode, Parents: parents}}})
}

// Remove removes a file or an empty directory; with recursive, one with all below it; with force it is content when there
// is none.
func (f *Files) Remove(ctx context.Context, path string, recursive, force bool) error {
	_, err := f.do(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Remove{Remove: &guestv1.RemoveFile{Path: []byte(path), Recursive: recursive, Force: force}}})
	return err
}

// Rename gives a file another path. With exclusive it fails when there is something.
func (f *Files) Rename(ctx context.Context, from, to string, exclusive bool) error {
	_, err := f.do(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Rename{Rename: &guestv1.RenameFile{From: []byte(from), To: []byte(to), Exclusive: exclusive}}})
	return err
}

// Chmod changes the permission, set-id and sticky bits of a file.
func (f *Files) Chmod(ctx context.Context, path string, mode uint32) error {
	_, err := f.do(ctx, &guestv1.FilesRequest{Op: &guestv1.FilesRequest_Chmod{Chmod: &guestv1.ChangeMode{Path: []byte(path), Mode: mode}}})
	return err
}

// Numbers of errors on Linux, whatever the host's are: errno(3).
const (
	errnoNone  = 0 // the request or the archive is wrong
	errnoNOENT = 2
	errnoEXIST = 17
	errnoNOSPC = 28
	errnoDQUOT = 122
)

// invalid are the errors that say that a path cannot be what the operation needs: ENXIO, EXDEV, ENODEV, ENOTDIR, EISDIR,
// EINVAL, ERANGE, ENAMETOOLONG, ELOOP, EOPNOTSUPP.
var invalid = []uint32{errnoNone, 6, 18, 19, 20, 21, 22, 34, 36, 40, 95}

// failed is the error for what the guest said; nil when it said nothing.
func failed(f *guestv1.FilesFailure) error {
	if f == nil {
		return nil
	}
	message := clean(f.GetMessage())
	if message == "" {
		message = "the guest gave no reason"
	}
	kind, hint := sandbox.Conflict, ""
	switch errno := f.GetErrno(); {
	case f.GetConflict():
	case errno == errnoNOENT:
		kind = sandbox.NotFound
	case errno == errnoEXIST:
		kind = sandbox.Exists
	case errno == errnoNOSPC || errno == errnoDQUOT:
		hint = "remove something in the sandbox, or make one with a larger disk: agentkernel create --disk"
	case slices.Contains(invalid, errno):
		kind = sandbox.Invalid
	}
	return sandbox.Errorf(kind, hint, "in the sandbox: %s", message)
}

// fileInfo checks what the guest says of a file whose name has at most limit bytes.
func fileInfo(m *guestv1.FileInfo, limit int) (FileInfo, error) {
	name, target := string(m.GetName()), string(m.GetTarget())
	switch {
	case name == "" || len(name) > limit || strings.IndexByte(name, 0) >= 0 || limit == maxName && strings.IndexByte(name, '/') >= 0:
		return FileInfo{}, fmt.Errorf("the guest told of a file whose name cannot be one")
	case len(target) > maxPath+1 || m.GetSize() > 1<<63-1 || m.GetBlocks() > 1<<54:
		return FileInfo{}, fmt.Errorf("the guest told of a file that cannot be")
	}
	return FileInfo{
		Name: name, Mode: m.GetMode(), Size: int64(m.GetSize()), Modified: time.Unix(0, m.GetModifiedNs()), UID: m.GetUid(), GID: m.GetGid(),
		Target: target, Inode: m.GetInode(), Links: m.GetLinks(), Blocks: int64(m.GetBlocks()),
	}, nil
}

// result decodes what an operation ended with.
func result(r *pieces.Reader) (*guestv1.FilesResult, error) {
	m := new(guestv1.FilesResult)
	if err := proto.Unmarshal(r.Result(), m); err != nil {
		return nil, fmt.Errorf("decode how the guest's operation ended: %w", err)
	}
	return m, failed(m.GetFailure())
}

func copied(m *guestv1.FilesResult) Copied {
	c := Copied{LeftOut: int(m.GetLeftOut())}
	for _, w := range m.GetWarnings()[:min(len(m.GetWarnings()), maxLeftOut)] {
		c.Warnings = append(c.Warnings, clean(w))
	}
	return c
}
