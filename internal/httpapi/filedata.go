package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
)

// ReadFile sends a file or parts of it.
func (h *handler) ReadFile(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.ReadFileParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		length := int64(0)
		if r.Header.Get("Range") != "" {
			length = 1 // only to see the file: what is wanted of it is opened then
		}
		first, err := f.Read(r.Context(), params.Path, 0, length)
		if err != nil {
			return err
		}
		c := &content{ctx: r.Context(), files: f, path: params.Path, size: first.Info.Size, open: first}
		defer func() { c.close() }()
		if length > 0 {
			c.close()
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if first.Info.Size == 0 { // nothing, or a file that the kernel makes up and does not know the size of
			if _, err := io.CopyBuffer(w, struct{ io.Reader }{c}, make([]byte, copyBuffer)); err != nil {
				h.Log.Debug("send a file", "sandbox", name, "err", err)
				panic(http.ErrAbortHandler)
			}
			return nil
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x-%x"`, first.Info.Inode, first.Info.Modified.UnixNano(), first.Info.Size))
		http.ServeContent(w, r, "", first.Info.Modified, c)
		return nil
	})
}

// content is a guest's file as http.ServeContent wants it: a new operation begins where it reads on elsewhere.
type content struct {
	ctx   context.Context
	files *guestrpc.Files
	path  string
	size  int64
	at    int64              // where Read goes on
	open  *guestrpc.Download // nil: to be opened
	next  int64              // what open reads next
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.at
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the begin of the file")
	}
	c.at = offset
	return offset, nil
}

func (c *content) Read(p []byte) (int, error) {
	if c.open == nil || c.next != c.at {
		c.close()
		d, err := c.files.Read(c.ctx, c.path, c.at, 0)
		if err != nil {
			return 0, err
		}
		c.open, c.next = d, c.at
	}
	n, err := c.open.Read(p)
	c.at, c.next = c.at+int64(n), c.next+int64(n)
	return n, err
}

func (c *content) close() {
	if c.open != nil {
		_ = c.open.Close()
		c.open = nil
	}
}

// WriteFile takes a file.
func (h *handler) WriteFile(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.WriteFileParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		mode, err := octal(deref(params.Mode))
		if err != nil {
			return err
		}
		fullDuplex(w)
		info, err := f.Write(r.Context(), guestrpc.WriteSpec{Path: params.Path, Mode: mode, Sync: deref(params.Sync)}, r.Body)
		if err == nil {
			h.reply(w, r, http.StatusOK, fileView(info))
		}
		return err
	})
	drain(w, r)
}

// ListFiles sends the files of a directory as lines.
func (h *handler) ListFiles(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.ListFilesParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		lines := newLines(w)
		err := f.List(r.Context(), params.Path, func(files []guestrpc.FileInfo) error {
			for _, file := range files {
				if err := lines.add(apiv1.FileLine{File: ptr(fileView(file))}); err != nil {
					return err
				}
			}
			return lines.flush()
		})
		if err == nil {
			return lines.flush()
		}
		return lines.end(err, apiv1.FileLine{Error: ptr(Error(err))})
	})
}

// WatchFiles sends changes as lines, until the client goes.
func (h *handler) WatchFiles(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.WatchFilesParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		lines := newLines(w)
		err := f.Watch(r.Context(), params.Path, deref(params.Recursive), func(list []guestrpc.Change) error {
			for _, c := range list {
				v := apiv1.FileChange{Type: apiv1.FileChangeType(c.Kind), Directory: ptr(c.Directory)}
				var path string
				path, v.PathBase64 = text(c.Path)
				v.Path = &path
				if c.From != "" {
					var from string
					from, v.FromBase64 = text(c.From)
					v.From = &from
				}
				if err := lines.add(v); err != nil {
					return err
				}
			}
			return lines.flush()
		})
		if err == nil {
			return nil
		}
		return lines.end(err, apiv1.FileChange{Type: apiv1.FileChangeTypeError, Error: ptr(Error(err))})
	})
}

// lines writes a response that is lines of JSON. Its header is sent with the first of them, so that an error before is an
// ordinary error response.
type lines struct {
	w     http.ResponseWriter
	enc   *json.Encoder
	begun bool
}

func newLines(w http.ResponseWriter) *lines { return &lines{w: w, enc: json.NewEncoder(w)} }

func (l *lines) begin() {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
	}
}

func (l *lines) add(v any) error {
	l.begin()
	return l.enc.Encode(v)
}

func (l *lines) flush() error {
	l.begin()
	return http.NewResponseController(l.w).Flush()
}

// end says why the lines end, in a last line, or returns err when there is none yet.
func (l *lines) end(err error, last any) error {
	if !l.begun {
		return err
	}
	_ = l.enc.Encode(last) // a client that is gone does not hear it
	return nil
}
