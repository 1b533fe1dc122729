// Package download fetches files over HTTP: large ones so that a transfer can be taken up again, small ones into memory. What
// is fetched is checked by the caller.
package download

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// stallTimeout ends a transfer of which nothing has come for so long.
	stallTimeout = 60 * time.Second
	reportEvery  = 1 << 20 // bytes between two progress events
	// attempts in a row may bring nothing; the second follows the first after firstPause, and each pause is twice the last.
	attempts   = 4
	firstPause = time.Second
)

// errStalled is why a transfer that stands still is called off.
var errStalled = errors.New("the server sent nothing for a minute")

// ErrNoFile is returned when the server has no such file.
var ErrNoFile = errors.New("the server has no such file (404): is there such a release?")

// File fetches url, of at most limit bytes, into path. What path already holds is taken for the
// beginning of the file, and only the rest is asked for, so that a transfer
// can be resumed in a later run; the caller checks the result's digest. An
// interrupted transfer is taken up again, and a server that is busy or cannot be
// reached is asked again, until several attempts in a row brought nothing. On an
// error path keeps what has arrived.
func File(ctx context.Context, client *http.Client, url, path string, limit int64, progress func(done, total int64)) error {
	return fetch(ctx, client, url, path, limit, firstPause, progress)
}

func fetch(ctx context.Context, client *http.Client, url, path string, limit int64, pause time.Duration, progress func(done, total int64)) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	for failed := 0; ; {
		have, err := out.Seek(0, io.SeekEnd)
		if err != nil {
			return errors.Join(fmt.Errorf("download %s: %w", url, err), out.Close())
		}
		got, err := fetchRest(ctx, client, url, out, have, limit, progress)
		if err == nil {
			break
		}
		if got > 0 {
			failed = 0
		} else {
			failed++
		}
		if ctx.Err() == nil && failed < attempts && errors.As(err, new(*interruptedError)) {
			if failed == 0 {
				continue
			}
			select {
			case <-time.After(pause << (failed - 1)):
				continue
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return errors.Join(fmt.Errorf("download %s: %w", url, err), out.Close())
	}
	if err := out.Sync(); err != nil {
		return errors.Join(fmt.Errorf("download %s: %w", url, err), out.Close())
	}
	return out.Close()
}

// interruptedError marks an attempt after which another may succeed.
type interruptedError struct{ cause error }

func (e *interruptedError) Error() string { return "the transfer broke off: " + e.cause.Error() }
func (e *interruptedError) Unwrap() error { return e.cause }

// fetchRest makes one request for the bytes from have on and appends them. It
// returns how many arrived.
func fetchRest(ctx context.Context, client *http.Client, url string, out *os.File, have, limit int64, progress func(done, total int64)) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	// A compressed transfer would be decompressed on its way, and its length
	// and offsets would be of something else.
	req.Header.Set("Accept-Encoding", "identity")
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	res, err := client.Do(req)
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound || errors.As(err, new(*tls.CertificateVerificationError)) {
			return 0, causeOf(ctx, err)
		}
		return 0, &interruptedError{causeOf(ctx, err)}
	}
	defer res.Body.Close()

	total := int64(0)
	switch res.StatusCode {
	case http.StatusOK: // the whole file, whatever was asked for
		if err := out.Truncate(0); err != nil {
			return 0, err
		}
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		have = 0
		total = max(res.ContentLength, 0)
	case http.StatusPartialContent:
		from, size, err := parseContentRange(res.Header.Get("Content-Range"))
		if err != nil {
			return 0, err
		}
		if from != have {
			return 0, fmt.Errorf("asked for the bytes from %d on, got those from %d on", have, from)
		}
		total = size
	case http.StatusRequestedRangeNotSatisfiable:
		// Everything is here already, or what is here is of another file; the
		// digest tells.
		if have > 0 {
			return 0, nil
		}
		return 0, fmt.Errorf("the server answered %s", res.Status)
	case http.StatusNotFound:
		return 0, ErrNoFile
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return 0, &interruptedError{fmt.Errorf("the server answered %s", res.Status)}
	default:
		return 0, fmt.Errorf("the server answered %s", res.Status)
	}
	if total > limit {
		return 0, fmt.Errorf("the server announces %d bytes; at most %d are taken", total, limit)
	}

	var got, reported int64
	buf := make([]byte, 128<<10)
	progress(have, total)
	for {
		n, readErr := res.Body.Read(buf)
		if n > 0 {
			stall.Reset(stallTimeout)
			if have+got+int64(n) > limit {
				return got, fmt.Errorf("the server sends more than %d bytes", limit)
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return got, err
			}
			got += int64(n)
			if got-reported >= reportEvery {
				reported = got
				progress(have+got, total)
			}
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return got, &interruptedError{causeOf(ctx, readErr)}
		}
	}
	if total > 0 && have+got < total {
		return got, &interruptedError{io.ErrUnexpectedEOF}
	}
	progress(have+got, total)
	return got, nil
}

// causeOf prefers the reason for which a request was called off to the bare
// "context canceled" that it failed with.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// parseContentRange reads "bytes FROM-TO/SIZE" (RFC 9110, section 14.4). A
// size of "*" is 0.
func parseContentRange(s string) (from, size int64, err error) {
	bad := fmt.Errorf("the server's Content-Range %q is malformed", s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, bad
	}
	span, sizeText, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, 0, bad
	}
	fromText, toText, ok := strings.Cut(span, "-")
	if !ok {
		return 0, 0, bad
	}
	from, err1 := strconv.ParseInt(fromText, 10, 64)
	to, err2 := strconv.ParseInt(toText, 10, 64)
	if err1 != nil || err2 != nil || from < 0 || to < from {
		return 0, 0, bad
	}
	if sizeText == "*" {
		return from, 0, nil
	}
	size, err = strconv.ParseInt(sizeText, 10, 64)
	if err != nil || size <= to {
		return 0, 0, bad
	}
	return from, size, nil
}

// Small fetches a file of at most limit bytes into memory.
func Small(ctx context.Context, client *http.Client, url string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stallTimeout, errStalled)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", url, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", url, causeOf(ctx, err))
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("download %s: %w", url, ErrNoFile)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("download %s: the server answered %s", url, res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", url, causeOf(ctx, err))
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("download %s: it is larger than %d bytes", url, limit)
	}
	return text, nil
}
