package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// patience says how long is waited for a registry.
type patience struct {
	attempts int           // of a request that fails for a reason that may pass
	first    time.Duration // wait after the first, doubled each time
	longest  time.Duration // wait that is accepted, also from a registry that says when to come back
	stall    time.Duration // without a byte, after which a connection counts as broken
}

var defaultPatience = patience{attempts: 5, first: 500 * time.Millisecond, longest: 2 * time.Minute, stall: time.Minute}

// backoff is how long to wait after a failed attempt, of which the first has the number 1: with up to a fifth more, so that
// many that failed together do not come back together.
func (p patience) backoff(attempt int) time.Duration {
	d := p.first << min(attempt-1, 10)
	return min(d+rand.N(d/5+1), p.longest)
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retrying repeats requests that have no body: when the connection fails, and when the registry says that it is overloaded.
// 429 and 503 may say when to come back: RFC 9110, Retry-After.
type retrying struct {
	inner    http.RoundTripper
	patience patience
	say      func(line string)
}

func (t *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	for attempt := 1; ; attempt++ {
		resp, err := t.inner.RoundTrip(req)
		if req.Body != nil && req.Body != http.NoBody || attempt >= t.patience.attempts || ctx.Err() != nil {
			return resp, err
		}
		wait := t.patience.backoff(attempt)
		switch {
		case err != nil && (!passing(err) || errors.Is(err, syscall.ECONNREFUSED) && attempt > 1):
			return nil, err // nobody listens: that takes longer to pass than anybody would wait
		case err == nil && !overloaded(resp.StatusCode):
			return resp, nil
		case err == nil:
			if asked, ok := retryAfter(resp.Header, time.Now()); ok {
				if asked > t.patience.longest {
					return resp, nil // its error says what it is about
				}
				wait = asked
			}
			if wait >= 2*time.Second {
				t.say(fmt.Sprintf("%s answers %q, trying again in %v", req.URL.Host, resp.Status, wait.Round(time.Second)))
			}
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
			_ = resp.Body.Close()
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func overloaded(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// passing reports whether an error of a connection may be gone the next time. A name that does not exist and a certificate
// that is not trusted stay what they are.
func passing(err error) bool {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &cert), errors.As(err, &authority), errors.As(err, &host), errors.As(err, &record):
		return false
	}
	return !errors.Is(err, context.Canceled)
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// watched ends a request whose answer's body stands still.
type watched struct {
	io.ReadCloser
	timer  *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
}

// watch returns body so that reads fail after stall without a byte. cancel belongs to the request's context.
func watch(body io.ReadCloser, stall time.Duration, cancel context.CancelCauseFunc) io.ReadCloser {
	w := &watched{ReadCloser: body, stall: stall, cancel: cancel}
	w.timer = time.AfterFunc(stall, func() { cancel(fmt.Errorf("the registry sent nothing for %v", stall)) })
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}
