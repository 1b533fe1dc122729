package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

type (
	// FileInfo is what a guest says of a file.
	FileInfo = apiv1.FileInfo
	// FileChange is what a watch tells.
	FileChange = apiv1.FileChange
	// Copied says what became of an archive.
	Copied = apiv1.Copied
)

// copiedTrailer is the trailer of an archive's response: httpapi.CopiedTrailer.
const copiedTrailer = "Agentkernel-Copied"

// FileName returns the bytes of a file's name, which need not be UTF-8.
func FileName(f FileInfo) string {
	if f.NameBase64 != nil {
		return string(*f.NameBase64)
	}
	return f.Name
}

// ArchiveOptions of GetArchive.
type ArchiveOptions struct {
	As     string // name of the first member; empty: the path's last component, or "." when that is one
	Follow bool   // when the path is a symbolic link, send what it points to
}

// GetArchive returns a file or directory of a running sandbox as a tar archive. It is what the guest sends: it may contain
// anything. Read returns io.EOF only when the archive is whole.
func (c *Client) GetArchive(ctx context.Context, name, path string, o ArchiveOptions) (*Archive, error) {
	params := &apiv1.GetArchiveParams{Path: path, Follow: &o.Follow}
	if o.As != "" {
		params.As = &o.As
	}
	resp, err := c.api.GetArchive(ctx, name, params, func(_ context.Context, req *http.Request) error {
		req.Header.Set("TE", "trailers")
		return nil
	})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, failure(resp)
	}
	return &Archive{resp: resp}, nil
}

// Archive is an archive that is being received.
type Archive struct {
	// Copied is valid once Read has returned io.EOF.
	Copied Copied
	resp   *http.Response
}

func (a *Archive) Read(p []byte) (int, error) {
	n, err := a.resp.Body.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if err := json.Unmarshal([]byte(a.resp.Trailer.Get(copiedTrailer)), &a.Copied); err != nil {
		return n, errors.New("the daemon ended the archive without a word")
	}
	if a.Copied.Error != nil {
		return n, asError(*a.Copied.Error)
	}
	return n, io.EOF
}

// Close ends it.
func (a *Archive) Close() error { return a.resp.Body.Close() }

// PutArchive unpacks a tar archive in a directory of a running sandbox. With owner, the archive's numeric owners are kept;
// else all belongs to root. When the guest or ctx ends it before the end of archive, a Read of that may still wait.
func (c *Client) PutArchive(ctx context.Context, name, path string, owner bool, archive io.Reader) (copied Copied, err error) {
	resp, err := c.api.PutArchiveWithBody(ctx, name, &apiv1.PutArchiveParams{Path: path, Owner: &owner}, "application/x-tar", body(archive))
	return copied, result(resp, err, &copied)
}

// body hides what else a reader can do: a request would close it.
func body(r io.Reader) io.Reader { return struct{ io.Reader }{r} }

// ReadFile returns length bytes of a file from offset, or less at its end; length 0 is all. An offset at or behind the end
// is an error.
func (c *Client) ReadFile(ctx context.Context, name, path string, offset, length int64) (io.ReadCloser, error) {
	resp, err := c.api.ReadFile(ctx, name, &apiv1.ReadFileParams{Path: path}, func(_ context.Context, req *http.Request) error {
		if length > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
		} else if offset > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		_ = resp.Body.Close()
		return nil, &Error{Code: apiv1.ErrorCodeInvalid, Message: fmt.Sprintf("the file %q has no byte %d", path, offset)}
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, failure(resp)
	}
	return resp.Body, nil
}

// WriteOptions of WriteFile.
type WriteOptions struct {
	Mode uint32 // permission bits of a new file; 0: 0644
	Sync bool   // return when it is on the guest's disk
}

// WriteFile puts a file with the bytes of r in the place of what is there: whole, or not at all. It uses r as PutArchive does.
func (c *Client) WriteFile(ctx context.Context, name, path string, o WriteOptions, r io.Reader) (f FileInfo, err error) {
	params := &apiv1.WriteFileParams{Path: path, Mode: octal(o.Mode), Sync: &o.Sync}
	resp, err := c.api.WriteFileWithBody(ctx, name, params, "application/octet-stream", body(r))
	return f, result(resp, err, &f)
}

func octal(mode uint32) *string {
	if mode == 0 {
		return nil
	}
	return ptr(fmt.Sprintf("%o", mode))
}

// StatFile describes a file; with follow what a symbolic link points to. Its name is its path without links.
func (c *Client) StatFile(ctx context.Context, name, path string, follow bool) (f FileInfo, err error) {
	resp, err := c.api.StatFile(ctx, name, &apiv1.StatFileParams{Path: path, Follow: &follow})
	return f, result(resp, err, &f)
}

// MakeDirectory makes a directory; mode 0 is 0755. With parents it makes those too, and is content with one that exists.
func (c *Client) MakeDirectory(ctx context.Context, name, path string, mode uint32, parents bool) (f FileInfo, err error) {
	resp, err := c.api.MakeDirectory(ctx, name, &apiv1.MakeDirectoryParams{Path: path, Mode: octal(mode), Parents: &parents})
	return f, result(resp, err, &f)
}

// RemoveFile removes a file, a link itself or an empty directory; with recursive, a directory with all below it; with force
// it is content when there is nothing.
func (c *Client) RemoveFile(ctx context.Context, name, path string, recursive, force bool) error {
	resp, err := c.api.RemoveFile(ctx, name, &apiv1.RemoveFileParams{Path: path, Recursive: &recursive, Force: &force})
	return result(resp, err, nil)
}

// RenameFile gives a file another path, in the place of what is there; with exclusive it fails when there is something.
func (c *Client) RenameFile(ctx context.Context, name, from, to string, exclusive bool) error {
	resp, err := c.api.RenameFile(ctx, name, &apiv1.RenameFileParams{Path: from, To: to, Exclusive: &exclusive})
	return result(resp, err, nil)
}

// ChangeMode changes the permission, set-id and sticky bits of a file.
func (c *Client) ChangeMode(ctx context.Context, name, path string, mode uint32) error {
	resp, err := c.api.ChangeMode(ctx, name, &apiv1.ChangeModeParams{Path: path, Mode: fmt.Sprintf("%o", mode)})
	return result(resp, err, nil)
}

// ListFiles yields the files of a directory, in no order, however many there are. An error is the last that it yields.
func (c *Client) ListFiles(ctx context.Context, name, path string) iter.Seq2[FileInfo, error] {
	return func(yield func(FileInfo, error) bool) {
		resp, err := c.api.ListFiles(ctx, name, &apiv1.ListFilesParams{Path: path}) //nolint:bodyclose // lines does
		found, err := lines[apiv1.FileLine](ctx, resp, err, "list files")
		if err != nil {
			yield(FileInfo{}, err)
			return
		}
		for line, err := range found {
			if err == nil && line.Error != nil {
				err = asError(*line.Error)
			}
			if err != nil {
				yield(FileInfo{}, err)
				return
			}
			if line.File != nil && !yield(*line.File, nil) {
				return
			}
		}
	}
}

// WatchFiles yields what changes at a path, and with recursive also in the directories below it, until ctx ends or what is
// watched is gone. The first change has the type "ready": all from then on is told. An error is the last that it yields.
func (c *Client) WatchFiles(ctx context.Context, name, path string, recursive bool) iter.Seq2[FileChange, error] {
	return func(yield func(FileChange, error) bool) {
		resp, err := c.api.WatchFiles(ctx, name, &apiv1.WatchFilesParams{Path: path, Recursive: &recursive}) //nolint:bodyclose // lines does
		changes, err := lines[FileChange](ctx, resp, err, "watch files")
		if err != nil {
			yield(FileChange{}, err)
			return
		}
		for change, err := range changes {
			if err == nil && change.Error != nil {
				err = asError(*change.Error)
			}
			if !yield(change, err) || err != nil {
				return
			}
		}
	}
}
