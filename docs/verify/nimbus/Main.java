import java.util.Scanner;

/** Reads tokens from standard input, one a line, and says of each whether it
 * is good. ISSUER and AUDIENCE are environment variables. */
class Main {
    public static void main(String[] arguments) throws Exception {
        var verifier = Verifier.make(System.getenv("ISSUER"), System.getenv("AUDIENCE"));
        for (var lines = new Scanner(System.in); lines.hasNextLine(); ) {
            try {
                System.out.println("ok " + verifier.process(lines.nextLine(), null).getSubject());
            } catch (Exception refused) {
                System.out.println("refused " + refused.toString().replace("\n", " "));
            }
        }
    }
}
