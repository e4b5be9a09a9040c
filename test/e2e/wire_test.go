package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Raw HTTP/1.1, for what no client library would send.

// errNoAnswer says that the server closed the connection without a word.
var errNoAnswer = errors.New("the connection was closed without an answer")

// sendRaw sends the bytes on a connection of its own and reads the answer.
// With hangUp the sending side is closed after them, as by a client that died.
func sendRaw(base, request string, hangUp bool) (answer, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience / 2)); err != nil { // less than the server's own limits
		return answer{}, err
	}
	go func() {
		// The server may have answered and closed before it took everything.
		if _, err := io.WriteString(conn, request); err == nil && hangUp {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	return readAnswer(conn)
}

// readAnswer reads one answer. It is errNoAnswer if there is none, and the
// deadline's error if the server keeps the client waiting.
func readAnswer(conn net.Conn) (answer, error) {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return answer{}, err
	case err != nil:
		return answer{}, errNoAnswer
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: body}, err
}

// encode is a body as JSON.
func encode(t *testing.T, body any) []byte {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
